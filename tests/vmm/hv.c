/* SPDX-License-Identifier: MIT */
#include "hv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void hv_check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(-result));
	abort();
}
