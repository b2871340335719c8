/* SPDX-License-Identifier: MIT */
#include "destination.h"
#include "../output.h"
#include "../clock.h"
#include "device.h"
#include "device_process.h"
#include "inlets.h"
#include "pages.h"
#include "report.h"
#include "wire.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * The destination: creates a machine for the guest that the source describes, receives its memory
 * and state, and resumes it. It does not trust the source; it reports a refusal to both sides.
 */

/* A test with many idle guests sets a shorter limit. */
#ifndef CHECK_LIMIT_NS
#define CHECK_LIMIT_NS (10 * NS_PER_S)
#endif

struct destination {
	const struct options *options;
	struct host *host;
	struct device device;
	struct wire wire;
	bool quiet; /* started by a source, which prints the report */
	const struct doors *doors;
	struct receiver receiver; /* of the first connection; in the end, the sum of all */
	struct inlets inlets;
	struct wire_proof proof;
	struct wire_result result;
	bool accepted; /* the source's hello */
	bool guest_ran;
};

static void say(const struct destination *destination, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void say(const struct destination *destination, const char *format, ...)
{
	va_list args;

	if (destination->quiet || destination->options->json)
		return;
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	output_flush();
}

/* Sends the source the reason in the wire's why. */
static int refuse(struct destination *destination, int failure)
{
	wire_refuse(&destination->wire, destination->wire.why);
	return failure;
}

static uint64_t memory_limit_bytes(const struct options *options)
{
	if (options->destination_fds_given)
		return LAYOUT_MAX_BYTES;
	if (options->memory_given)
		return options->memory_bytes;
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 2;
}

static int check_hello(struct destination *destination, const struct wire_hello *hello)
{
	struct wire *wire = &destination->wire;
	uint32_t page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	uint64_t limit_bytes = memory_limit_bytes(destination->options);

	if (hello->version != WIRE_VERSION)
		return wire_fail(wire, -EPROTO, "protocol version %u is not supported",
				 hello->version);
	if (hello->machine != WIRE_MACHINE)
		return wire_fail(wire, -EPROTO, "cannot run a guest for ELF machine %u",
				 hello->machine);
	if (hello->page_bytes != page_bytes)
		return wire_fail(wire, -EPROTO, "page size %u is not that of the destination, %u",
				 hello->page_bytes, page_bytes);
	if (hello->backend != BACKEND_KVM && hello->backend != BACKEND_MODEL)
		return wire_fail(wire, -EPROTO, "unknown backend %u", hello->backend);
	if (hello->guest_user > 1)
		return wire_fail(wire, -EPROTO, "unknown guest mode %u", hello->guest_user);
	if (!hello->channels || hello->channels > WIRE_MAX_CHANNELS || hello->reserved)
		return wire_fail(wire, -EPROTO, "%u channels", hello->channels);
	if (hello->memory_bytes > limit_bytes)
		return wire_fail(wire, -ENOMEM,
				 "guest memory of %" PRIu64 " MiB exceeds the limit of %" PRIu64
				 " MiB; raise the destination's --memory",
				 hello->memory_bytes >> 20, limit_bytes >> 20);
	return 0;
}

/* Creates the machine, with empty memory. */
static int create_machine(struct destination *destination, const struct wire_hello *hello)
{
	const struct options *options = destination->options;
	const struct dl_options wanted = { .size = sizeof(wanted),
					   .mode = options->mode,
					   .backup = options->backup,
					   .ring_entries = options->ring_entries };
	struct wire *wire = &destination->wire;
	struct host *host = destination->host;
	const struct machine_kind *kind;
	struct layout layout;
	char why[320];
	int r;

	r = layout_make(&layout, hello->memory_bytes, hello->working_set_bytes, hello->vcpus,
			hello->page_bytes, why, sizeof(why));
	if (r)
		return wire_fail(wire, r, "%.200s", why);
	kind = machine_choose((enum backend)hello->backend, why, sizeof(why));
	if (!kind)
		return wire_fail(wire, -ENODEV, "destination: %.150s", why);
	if (options->backend == BACKEND_MODEL && kind != &machine_model)
		return wire_fail(wire, -ENODEV, "the destination only accepts --backend model");
	if (options->backend == BACKEND_KVM && kind == &machine_model)
		return wire_fail(wire, -ENODEV, "the destination only accepts --backend kvm");
	if (options->device_process && !device_process_fits(&layout))
		return wire_fail(wire, -ENOSPC,
				 "destination: the guest leaves no room for --device-process");
	r = host_open(host, kind, &layout, hello->guest_user);
	if (!r && options->device_process)
		r = machine_share_memory(&host->machine);
	if (r)
		return wire_fail(wire, r, "%.200s", host->machine.why);
	/* To move on the guest needs a log, which comes before the vCPUs. */
	if (options->connect) {
		r = host_open_log(host, &wanted, why, sizeof(why));
		if (r)
			return wire_fail(wire, r, "destination: %.200s", why);
	}
	r = machine_plug(&host->machine, host->log);
	if (!r)
		r = machine_start(&host->machine);
	return r ? wire_fail(wire, r, "%.200s", host->machine.why) : 0;
}

/*
 * Receives all passes, over all connections. On success, header is that of the VCPUS frame that
 * follows them.
 */
static int receive_passes(struct destination *destination, struct wire_header *header)
{
	int r = receiver_run(&destination->receiver, WIRE_VCPUS, header);
	int ended = inlets_end(&destination->inlets, r, &destination->receiver);

	/* It may have been the reason. */
	return ended ? ended : r;
}

static int receive_state(struct destination *destination, const struct wire_header *header)
{
	struct vcpu_state states[LAYOUT_MAX_VCPUS];
	struct wire *wire = &destination->wire;
	struct device_state *device_state = &destination->host->device_state;
	size_t bytes = destination->host->machine.layout.vcpus * sizeof(states[0]);
	struct wire_result *result = &destination->result;
	int r;

	if (header->payload_bytes != bytes)
		return wire_fail(wire, -EPROTO, "vCPU state of %u bytes, expected %zu",
				 header->payload_bytes, bytes);
	r = wire_receive_payload(wire, states, bytes);
	if (!r)
		r = wire_expect(wire, WIRE_DEVICE, device_state, sizeof(*device_state));
	if (r)
		return r;
	r = machine_load(&destination->host->machine, states);
	if (r)
		return wire_fail(wire, r, "%.200s", destination->host->machine.why);
	device_init(&destination->device, &destination->host->machine, NULL);
	/* Damage that the device finds is reported with the result, not as a failure here. */
	result->device_healthy =
		device_load(&destination->device, device_state, result->why, sizeof(result->why));
	return wire_send(wire, WIRE_READY, 0, NULL, 0);
}

static void compare_page(struct destination *destination, uint64_t offset_bytes, uint64_t hash)
{
	struct wire_proof *proof = &destination->proof;
	uint32_t page_bytes = destination->host->machine.layout.page_bytes;

	proof->compared_pages++;
	if (page_hash(destination->host->machine.memory + offset_bytes, page_bytes) == hash)
		return;
	if (proof->differing_pages < 4)
		proof->first_differing[proof->differing_pages] = offset_bytes;
	proof->differing_pages++;
}

static int send_proof(struct destination *destination)
{
	const struct layout *layout = &destination->host->machine.layout;
	struct wire_proof *proof = &destination->proof;

	if (proof->compared_pages != layout->memory_bytes / layout->page_bytes)
		return wire_fail(&destination->wire, -EPROTO,
				 "only %" PRIu64 " of %" PRIu64 " pages were compared",
				 proof->compared_pages, layout->memory_bytes / layout->page_bytes);
	return wire_send(&destination->wire, WIRE_PROOF, 0, proof, sizeof(*proof));
}

/* Compares every page with the hash that the source sends. */
static int verify_pages(struct destination *destination)
{
	uint32_t page_bytes = destination->host->machine.layout.page_bytes;
	struct wire *wire = &destination->wire;
	uint64_t hashes[WIRE_MAX_HASHES];
	struct wire_header header;
	uint64_t n, i;
	int r;

	for (;;) {
		r = wire_receive_header(wire, &header);
		if (r)
			return r;
		if (header.type == WIRE_PROVE && !header.payload_bytes)
			return send_proof(destination);
		n = header.payload_bytes / sizeof(hashes[0]);
		if (header.type != WIRE_HASHES || n > WIRE_MAX_HASHES ||
		    header.payload_bytes % sizeof(hashes[0]))
			return wire_fail(wire, -EPROTO, "frame %u with %u bytes, expected hashes",
					 header.type, header.payload_bytes);
		/* Each page once, in order: one page sent many times must not pass for all. */
		if (header.offset_bytes != destination->proof.compared_pages * page_bytes)
			return wire_fail(wire, -EPROTO, "hashes out of order at offset %#" PRIx64,
					 header.offset_bytes);
		r = receiver_check_range(&destination->receiver, header.offset_bytes,
					 n * page_bytes);
		if (!r)
			r = wire_receive_payload(wire, hashes, header.payload_bytes);
		if (r)
			return r;
		destination->receiver.pages -= n;
		for (i = 0; i < n; i++)
			compare_page(destination, header.offset_bytes + i * page_bytes, hashes[i]);
	}
}

/* Resumes the guest, which checks every page that it has written. */
static int run_guest(struct destination *destination)
{
	struct wire_result *result = &destination->result;
	struct wire *wire = &destination->wire;
	struct machine_check check;
	int r;

	r = wire_expect(wire, WIRE_RUN, NULL, 0);
	if (r)
		return r;
	/* The source waits for the result. */
	wire->cancelled = NULL;
	machine_check(&destination->host->machine, CHECK_LIMIT_NS, &check);
	destination->guest_ran = true;
	result->guest_healthy = check.healthy;
	result->checked_pages = check.checked_pages;
	result->records = check.records;
	result->ns = check.ns;
	if (!check.healthy)
		snprintf(result->why, sizeof(result->why), "%s", check.why);
	return wire_send(wire, WIRE_RESULT, 0, result, sizeof(*result));
}

/* Waits for the source's further connections. */
static int add_channels(struct destination *destination, const struct wire_hello *hello)
{
	struct wire *wire = &destination->wire;
	int r = 0;

	for (unsigned int i = 1; i < hello->channels && !r; i++) {
		int fd = destination->doors->next(destination->doors, wire->fd, wire->why,
						  sizeof(wire->why));

		r = fd < 0 ? (wire->failure = fd)
			   : inlets_add(&destination->inlets, fd, hello->token, wire,
					&destination->host->machine);
	}
	if (r)
		(void)inlets_end(&destination->inlets, true, &destination->receiver);
	return r;
}

static int receive_guest(struct destination *destination, const struct wire_hello *hello)
{
	struct wire_header header;
	int r;

	destination->receiver = (struct receiver){ .wire = &destination->wire,
						   .machine = &destination->host->machine };
	r = wire_send(&destination->wire, WIRE_WELCOME, 0, NULL, 0);
	destination->accepted = true;
	if (!r)
		r = add_channels(destination, hello);
	if (!r)
		r = receive_passes(destination, &header);
	if (!r)
		say(destination, "received %" PRIu64 " pages in %u passes",
		    destination->receiver.pages, destination->receiver.passes);
	if (!r)
		r = receive_state(destination, &header);
	if (!r)
		r = verify_pages(destination);
	if (!r)
		say(destination, "verify: %" PRIu64 " pages compared, %" PRIu64 " differ",
		    destination->proof.compared_pages, destination->proof.differing_pages);
	return r ? r : run_guest(destination);
}

static int receive_all(struct destination *destination)
{
	struct wire_hello hello;
	int r;

	r = wire_expect(&destination->wire, WIRE_HELLO, &hello, sizeof(hello));
	if (!r)
		r = check_hello(destination, &hello);
	if (!r)
		r = create_machine(destination, &hello);
	if (r)
		return refuse(destination, r);
	say(destination, "incoming guest: %u vCPUs, %" PRIu64 " MiB, on %s", hello.vcpus,
	    hello.memory_bytes >> 20, destination->host->machine.kind->name);
	r = receive_guest(destination, &hello);
	if (r && !destination->guest_ran)
		refuse(destination, r);
	return r;
}

static int status_of(const struct destination *destination)
{
	const struct wire_result *result = &destination->result;

	if (!destination->guest_ran)
		return STATUS_FAILED;
	if (destination->proof.differing_pages || !result->guest_healthy || !result->device_healthy)
		return STATUS_CORRUPT;
	return STATUS_MOVED;
}

static void print_json(const struct destination *destination, int status)
{
	printf("{\n  \"passes\": %u,\n  \"pages_received\": %" PRIu64
	       ",\n  \"compared_pages\": %" PRIu64 ",\n  \"differing_pages\": %" PRIu64
	       ",\n  \"guest_ran\": %s,\n  \"guest_healthy\": %s,\n  \"device_healthy\": %s"
	       ",\n  \"checked_pages\": %" PRIu64 ",\n  \"exit_status\": %d\n}\n",
	       destination->receiver.passes, destination->receiver.pages,
	       destination->proof.compared_pages, destination->proof.differing_pages,
	       destination->guest_ran ? "true" : "false",
	       !destination->guest_ran		   ? "null"
	       : destination->result.guest_healthy ? "true"
						   : "false",
	       destination->result.device_healthy ? "true" : "false",
	       destination->result.checked_pages, status);
	output_flush();
}

static void print_failure(const struct destination *destination)
{
	const char *guest = "";

	/* The source that started this process has printed the reason. */
	if (destination->quiet && !destination->accepted)
		return;
	if (destination->guest_ran)
		guest = "; the guest has already run here";
	else if (destination->receiver.pages)
		guest = "; the partial guest is discarded";
	report_print_error("destination: %s%s", destination->wire.why, guest);
}

int destination_run(const struct options *options, int fd, const struct doors *doors,
		    struct host *host)
{
	struct destination destination = { .options = options, .host = host, .doors = doors };
	int r, status;

	destination.quiet = options->destination_fds_given;
	wire_init(&destination.wire, fd);
	destination.wire.cancelled = doors->cancelled;
	r = receive_all(&destination);
	close(fd);
	status = status_of(&destination);
	if (r)
		print_failure(&destination);
	else
		say(&destination, "the guest arrived and is %s",
		    status == STATUS_MOVED ? "healthy" : "DAMAGED");
	if (options->json && !destination.quiet)
		print_json(&destination, status);
	if (r || status != STATUS_MOVED || !options->connect)
		host_close(host);
	return status;
}
