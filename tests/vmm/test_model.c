/* SPDX-License-Identifier: MIT */
/* All scenes in all kinds of VM on the model kernel, with threads. */
#include "kinds.h"
#include "rows.h"

int main(void)
{
	for (int kind = 0; kind < KINDS; kind++) {
		struct vmm_config config = kinds[kind].config;

		config.backend = &hv_model;
		config.threads = true;
		for (unsigned int i = 0; i < n_scenes; i++)
			if (!scenes[i].needs_threads || config.ring_entries)
				row_add(&scenes[i], &config, kinds[kind].name);
	}
	return rows_run("vmm on the model");
}
