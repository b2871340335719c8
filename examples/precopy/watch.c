/* SPDX-License-Identifier: MIT */
#include "watch.h"

#include <string.h>

int watch_open(struct watch *watch, const struct options *options)
{
	char why[256];

	memset(watch, 0, sizeof(*watch));
	watch->options = options;
	if (options->status) {
		watch->status = status_open(options->status, why, sizeof(why));
		if (!watch->status) {
			report_early_failure(options, STATUS_FAILED, "%s", why);
			return -1;
		}
	}
	return 0;
}

int watch_begin(struct watch *watch, const struct machine *machine, const struct dl_log *log)
{
	const struct layout *layout = &machine->layout;
	struct status_source source = {
		.program = "precopy",
		.log = log,
		.activity = &watch->activity,
	};

	heat_init(&watch->activity.heat, layout->page_bytes);
	for (uint32_t i = 0; i < LAYOUT_SLOTS; i++)
		heat_add_slot(&watch->activity.heat, i, layout->slots[i].gpa,
			      layout->slots[i].bytes);
	for (uint32_t i = 0; i < layout->vcpus; i++)
		source.vcpus[source.n_vcpus++] =
			(struct status_vcpu){ machine->vcpus[i].log_vcpu, i };
	return status_start(watch->status, &source);
}

void watch_cursor(struct watch *watch, const struct dl_cursor *cursor)
{
	status_set_cursor(watch->status, cursor);
}

void watch_state(struct watch *watch, enum activity_state state)
{
	atomic_store_explicit(&watch->activity.state, state, memory_order_relaxed);
}

void watch_end(struct watch *watch, int status)
{
	status_end(watch->status, options_status_name(status));
}

int watch_close(struct watch *watch, int status)
{
	status_close(watch->status);
	return status;
}
