/* SPDX-License-Identifier: MIT */
/* Errors in words, with any C library. */

/* glibc has strerrordesc_np() from 2.32 on; elsewhere only the strerror_r() of POSIX is known. */
#ifndef DLI_HAVE_STRERRORDESC_NP
#undef _GNU_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "kvm/error_text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#ifdef DLI_HAVE_STRERRORDESC_NP

static const char *describe(int number, char *buffer)
{
	return strerrordesc_np(number);
}

#else

/* Not inline: gcc warns of a NULL buffer then that only its own check for one could bring. */
static __attribute__((noinline)) const char *describe(int number, char *buffer)
{
	int before = errno;
	int r = strerror_r(number, buffer, ERROR_TEXT_BYTES);

	errno = before;
	return r ? NULL : buffer;
}

#endif

const char *dli_error_text(int error, char *buffer)
{
	const char *text = describe(-error, buffer);

	if (text)
		return text;
	snprintf(buffer, ERROR_TEXT_BYTES, "error %d", error);
	return buffer;
}
