/* SPDX-License-Identifier: MIT */
/*
 * precopy's wire protocol against a peer that sends anything. The destination runs completely, on
 * the model kernel; the source runs wherever it reads from the peer. Neither crashes, waits for
 * ever, allocates more memory than it may, writes outside the guest's memory, or prints anything
 * but text. The destination's answers follow the protocol.
 */
#include "peer.h"

#include "destination.h"
#include "handover.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

enum { SOURCE_PAGES = 64, TEXT_BYTES = 1 << 16 };

static char text[TEXT_BYTES];
static FILE *output;

/* Begins to record the output. */
static void record_output(void)
{
	memset(text, 0, sizeof(text));
	rewind(output);
}

static void expect_text(void)
{
	fflush(output);
	for (const char *at = text; at < text + TEXT_BYTES && *at; at++)
		expect(*at == '\n' || (*at >= ' ' && *at <= '~'), "it prints the character %#x",
		       (unsigned char)*at);
}

static void begin_peer(struct input *in, const struct layout *layout, bool to_source)
{
	static const size_t chunks[] = { STREAM_BYTES, 4096, 100, 24, 1 };
	uint8_t behaviour = input_u8(in), flaws = input_u8(in), gone = input_u8(in);

	peer.bytes = peer.at = peer.sent_bytes = 0;
	peer.repeated_bytes = peer.passed_ns = 0;
	peer.mapped_bytes = peer.allocated_bytes = 0;
	peer.guests = 0;
	peer.chunk_bytes = chunks[behaviour % 5];
	/* PEER_REPEATS is for the source only: a destination may read for ever, pass after pass. */
	peer.end = (behaviour >> 4) % (to_source ? 4 : 3);
	peer.flaws = flaws;
	peer.gone_after_bytes = gone < 128 ? SIZE_MAX : (gone - 128u) * 24;
	peer.layout = layout;
	peer_make_stream(in, to_source);
}

/* Reads a frame that the destination sent. Returns its length; 0 if no whole one is left. */
static size_t read_frame(size_t at, struct wire_header *header)
{
	if (peer.sent_bytes - at < sizeof(*header))
		return 0;
	memcpy(header, peer.sent + at, sizeof(*header));
	expect(header->magic == 0x706d4c44 && !header->reserved,
	       "it sends something that is no frame");
	if (peer.sent_bytes - at - sizeof(*header) < header->payload_bytes)
		return 0;
	return sizeof(*header) + header->payload_bytes;
}

static void expect_refusal(const uint8_t *why, uint32_t bytes)
{
	expect(bytes && bytes < WIRE_TEXT_BYTES, "a refusal of %u bytes", bytes);
	for (uint32_t i = 0; i < bytes; i++)
		expect(why[i] >= ' ' && why[i] <= '~', "a refusal with character %#x", why[i]);
}

/* The answers are in order, and REFUSED can only be the last one. Returns the last type. */
static uint32_t expect_protocol(void)
{
	static const uint32_t lengths[WIRE_TYPES] = {
		[WIRE_PROOF] = sizeof(struct wire_proof), [WIRE_RESULT] = sizeof(struct wire_result)
	};
	static const uint32_t order[] = { 0, WIRE_WELCOME, WIRE_READY, WIRE_PROOF, WIRE_RESULT };
	struct wire_header header;
	unsigned int position = 0;
	uint64_t passes = 0;
	uint32_t last = 0;

	for (size_t at = 0, n; (n = read_frame(at, &header)); at += n) {
		expect(last != WIRE_REFUSED && last != WIRE_RESULT, "an answer after the last one");
		last = header.type;
		if (last == WIRE_REFUSED) {
			expect_refusal(peer.sent + at + sizeof(header), header.payload_bytes);
		} else if (last == WIRE_PASS_DONE) {
			expect(position == 1 && !header.payload_bytes &&
				       header.offset_bytes == ++passes,
			       "PASS_DONE at the wrong time or with a wrong number");
		} else {
			expect(position + 1 < sizeof(order) / sizeof(order[0]) &&
				       last == order[++position] &&
				       header.payload_bytes == lengths[last],
			       "answer %u at position %u", last, position);
		}
	}
	return last;
}

/* There is one connection. */
static int next_connection(const struct doors *doors, int first_fd, char *why, size_t why_bytes)
{
	snprintf(why, why_bytes, "there is no further connection");
	return -ENOTCONN;
}

static const struct doors no_doors = { next_connection, NULL };

static void fuzz_destination(struct input *in, const struct layout *layout)
{
	const struct options options = { .backend = BACKEND_MODEL,
					 .memory_given = true,
					 .memory_bytes = MEMORY_LIMIT_BYTES };
	static struct host host;
	uint32_t last;
	int status;

	memset(&host, 0, sizeof(host));
	begin_peer(in, layout, false);
	status = destination_run(&options, PEER_FD, &no_doors, &host);
	last = expect_protocol();
	fflush(output);
	trace("status %d, the last answer is %u\n%s", status, last, text);
	expect(status == STATUS_FAILED || status == STATUS_CORRUPT || status == STATUS_MOVED,
	       "exit status %d", status);
	expect(status == STATUS_FAILED || peer.guests, "the guest's memory was not guarded");
	expect(status == STATUS_FAILED || last == WIRE_RESULT || peer.gone_after_bytes < SIZE_MAX,
	       "exit status %d without a result", status);
	expect(status != STATUS_FAILED || last != WIRE_RESULT, "it failed after the result");
}

/* The steps of a migration in source.c, without a guest. */
static int migrate(struct source *source)
{
	int r = handover_hello(source);

	for (int pass = 0; !r && pass < 2; pass++) {
		struct sender *sender = &source->outlets.outlet[0].sender;

		sender_begin_pass(sender, report_next_row(&source->report));
		r = sender_flush(sender);
	}
	if (!r)
		r = handover_state(source);
	if (!r)
		r = handover_prove(source);
	return r ? r : handover_run(source);
}

static void fuzz_source(struct input *in, const struct layout *layout)
{
	static _Alignas(64) uint8_t memory[SOURCE_PAGES * 4096];
	static volatile sig_atomic_t cancelled;
	static struct machine machine;
	static struct source source;
	struct options options = {
		.passes = 3, .channels = 1, .vcpus = VCPUS, .json = input_u8(in) & 1
	};
	const struct sender like = { .machine = &machine,
				     .report = &source.report,
				     .saboteur = &source.saboteur,
				     .cancelled = &cancelled };
	const int fds[] = { PEER_FD };
	int status, failure;

	memset(&source, 0, sizeof(source));
	memset(&machine, 0, sizeof(machine));
	source.machine = &machine;
	source.options = &options;
	expect(!report_init(&source.report, &options), "no memory");
	source.report.layout = machine.layout = *layout;
	source.report.layout.memory_bytes = sizeof(memory);
	machine.kind = &machine_model;
	machine.memory = memory;
	begin_peer(in, &source.report.layout, true);
	wire_init(&source.wire, PEER_FD);
	source.wire.cancelled = &cancelled;
	outlets_init(&source.outlets, &source.wire, fds, 1, &like);
	failure = migrate(&source);
	if (failure)
		source_wire_error(&source);
	status = report_end(&source.report);
	fflush(output);
	trace("status %d\n%s", status, text);
	expect(status != STATUS_MOVED || (source.report.proved && source.report.has_result),
	       "it reports a move without a proof");
	/* Only a guest that surely has not run over there runs on here. */
	expect(!failure || (status == STATUS_FAILED && !source.report.has_result) ||
		       source.report.proof.differing_pages,
	       "failure %d with status %d", failure, status);
	expect(source.report.unknown == (!failure && !source.report.has_result),
	       "the outcome is %sunknown", source.report.unknown ? "" : "not ");
	report_free(&source.report);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	output = fmemopen(text, sizeof(text), "w");
	expect(output, "no memory");
	stdout = stderr = output;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct input in = { data, bytes };
	struct layout layout;
	char why[200];

	expect(!layout_make(&layout, LAYOUT_MIN_BYTES, 64 << 10, VCPUS, 4096, why, sizeof(why)),
	       "%s", why);
	record_output();
	if (input_u8(&in) & 1)
		fuzz_source(&in, &layout);
	else
		fuzz_destination(&in, &layout);
	expect_text();
	return 0;
}
