/* SPDX-License-Identifier: MIT */
#ifndef VMM_ROWS_H
#define VMM_ROWS_H

/* Tests of a program: each is a scene in one kind of VM. */

#include "../unit/cmocka_all.h"
#include "scenes.h"

enum { ROWS = 400 };

struct row {
	const struct scene *scene;
	struct vmm_config config;
	char name[120];
	void (*before)(const struct row *row); /* may skip the test */
	void (*after)(const struct row *row);
};

/* Adds a scene under a configuration, whose name is in the test's. */
struct row *row_add(const struct scene *scene, const struct vmm_config *config, const char *name);

/* Runs all rows; with a misuse the verdict must be bad, otherwise good. */
int rows_run(const char *name);

#endif
