/* SPDX-License-Identifier: MIT */
#include "handover.h"
#include "../clock.h"
#include "pages.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

void source_wire_error(struct source *source)
{
	struct report *report = &source->report;

	if (!*source->wire.why || *report->error)
		return;
	wire_read_refusal(&source->wire);
	if (report->row_count && !report->downtime_ns)
		snprintf(report->error, sizeof(report->error), "in pass %u: %s", report->row_count,
			 source->wire.why);
	else
		snprintf(report->error, sizeof(report->error), "%s", source->wire.why);
}

int source_guest_failure(struct source *source)
{
	char why[160];
	int r = machine_failure(source->machine, why, sizeof(why));

	if (r)
		snprintf(source->report.error, sizeof(source->report.error),
			 "on the source before the switch-over: %s", why);
	return r;
}

int handover_hello(struct source *source)
{
	const struct layout *layout = &source->report.layout;
	struct wire_hello hello = {
		.version = WIRE_VERSION,
		.machine = WIRE_MACHINE,
		.backend = source->machine->model ? BACKEND_MODEL : BACKEND_KVM,
		.guest_user = source->machine->guest_user,
		.page_bytes = layout->page_bytes,
		.vcpus = layout->vcpus,
		.memory_bytes = layout->memory_bytes,
		.channels = source->options->channels,
		.working_set_bytes = layout->share_pages * layout->vcpus * layout->page_bytes,
	};
	int r;

	/* Nobody else should join by accident; whoever means harm reads the wire anyway. */
	if (getrandom(&hello.token, sizeof(hello.token), 0) != sizeof(hello.token))
		hello.token = clock_ns();
	r = wire_send(&source->wire, WIRE_HELLO, 0, &hello, sizeof(hello));
	if (!r)
		r = wire_expect(&source->wire, WIRE_WELCOME, NULL, 0);
	return r ? r : outlets_announce(&source->outlets, hello.token);
}

static void note_downtime(struct report *report, uint64_t ns)
{
	struct stop_times *stop = &report->stop;
	uint64_t parts_ns = stop->vcpus_ns + stop->devices_ns + stop->harvest_ns + stop->send_ns;

	report->downtime_ns = ns;
	stop->state_ns = ns > parts_ns ? ns - parts_ns : 0;
}

int handover_state(struct source *source)
{
	struct vcpu_state states[LAYOUT_MAX_VCPUS];
	size_t bytes = source->report.layout.vcpus * sizeof(states[0]);
	int r;

	r = machine_save(source->machine, states);
	if (r) {
		snprintf(source->report.error, sizeof(source->report.error), "%s",
			 source->machine->why);
		return r;
	}
	r = wire_send(&source->wire, WIRE_VCPUS, 0, states, bytes);
	if (!r)
		r = wire_send(&source->wire, WIRE_DEVICE, 0, &source->device_state,
			      sizeof(source->device_state));
	if (!r)
		r = wire_expect(&source->wire, WIRE_READY, NULL, 0);
	if (!r)
		note_downtime(&source->report, clock_ns() - source->stopped_ns);
	return r;
}

int handover_prove(struct source *source)
{
	const struct layout *layout = &source->report.layout;
	uint64_t pages = layout->memory_bytes / layout->page_bytes, page = 0;
	struct report *report = &source->report;
	uint64_t hashes[WIRE_MAX_HASHES];
	size_t n;
	int r = 0;

	while (!r && page < pages) {
		for (n = 0; n < WIRE_MAX_HASHES && page + n < pages; n++)
			hashes[n] =
				page_hash(source->machine->memory + (page + n) * layout->page_bytes,
					  layout->page_bytes);
		r = wire_send(&source->wire, WIRE_HASHES, page * layout->page_bytes, hashes,
			      n * sizeof(hashes[0]));
		page += n;
	}
	if (!r)
		r = wire_send(&source->wire, WIRE_PROVE, 0, NULL, 0);
	if (!r)
		r = wire_expect(&source->wire, WIRE_PROOF, &report->proof, sizeof(report->proof));
	if (!r && report->proof.compared_pages != pages)
		r = wire_fail(&source->wire, -EPROTO, "the peer did not compare every page");
	report->proved = !r;
	return r;
}

int handover_run(struct source *source)
{
	struct report *report = &source->report;
	struct wire_result *result = &report->result;
	uint64_t sent_before = source->wire.sent_bytes;
	int r;

	if (*source->wire.cancelled)
		return wire_fail(&source->wire, -EINTR, "cancelled");
	/* It comes too late from here on. */
	source->wire.cancelled = NULL;
	r = wire_send(&source->wire, WIRE_RUN, 0, NULL, 0);
	if (r && source->wire.sent_bytes - sent_before < sizeof(struct wire_header))
		return r;
	if (!r)
		r = wire_expect(&source->wire, WIRE_RESULT, result, sizeof(*result));
	if (!r) {
		result->why[sizeof(result->why) - 1] = '\0';
		wire_sanitize(result->why);
		report->has_result = true;
		return 0;
	}
	/* A destination refuses only as long as its guest has not run. */
	if (source->wire.refused)
		return r;
	report->unknown = true;
	snprintf(report->error, sizeof(report->error),
		 "%.150s; the guest may have run at the destination, so it stays stopped here",
		 source->wire.why);
	return 0;
}
