/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_PAGES = 800000 };

static void choose_unit(struct guest *guest, double bytes)
{
	guest->unit_bytes = KERNEL_PAGE_BYTES;
	while (bytes / guest->unit_bytes > MOST_PAGES)
		guest->unit_bytes *= 2;
	guest->pages = (uint64_t)(bytes / guest->unit_bytes);
}

static void init_stream(struct guest *guest, struct guest_vcpu *vcpu, int i,
			const struct stream_plan *plan, double rate, const struct stream *same)
{
	struct stream *stream = &vcpu->streams[i];

	if (plan->kind == STREAM_NONE)
		return;
	*stream = (struct stream){
		.kind = plan->kind,
		.pages_per_s = plan->bytes_per_s * (plan->steady ? 1 : rate) / guest->unit_bytes,
		.pages = (uint64_t)fmax(1, plan->bytes / guest->unit_bytes),
		.on_s = plan->on_s,
		.off_s = plan->off_s,
		.phase_s = (plan->on_s + plan->off_s) * random_unit(guest->random),
	};
	if (plan->kind == STREAM_GC) {
		stream->first = vcpu->streams[i - 1].first;
		stream->pages = vcpu->streams[i - 1].pages;
		stream->next_s = stream->phase_s;
	} else if (same) {
		stream->first = same->first;
	} else {
		stream->first = guest->used;
		guest->used += stream->pages;
	}
	stream->position = (uint64_t)(random_unit(guest->random) * (double)stream->pages);
	stream->log_pages = log((double)stream->pages + 1);
}

static void init_crew(struct guest *guest, const struct crew *crew, double rate)
{
	const struct guest_vcpu *first = &guest->vcpus[guest->vcpu_count];

	for (uint32_t n = 0; n < crew->vcpus; n++) {
		struct guest_vcpu *vcpu = &guest->vcpus[guest->vcpu_count++];

		vcpu->reader = crew->readers;
		for (int i = 0; i < CREW_STREAMS; i++)
			init_stream(guest, vcpu, i, &crew->streams[i], rate,
				    n && crew->same_memory ? &first->streams[i] : NULL);
	}
}

void guest_init(struct guest *guest, const struct load *load, struct random *random)
{
	double rate = random_between(random, 0.85, 1.15);
	uint64_t first;

	*guest = (struct guest){ .random = random };
	choose_unit(guest, load->memory_bytes);
	for (int i = 0; i < LOAD_CREWS; i++)
		init_crew(guest, &load->crews[i], rate);
	if (guest->used > guest->pages) {
		fprintf(stderr, "%s: less memory than its vCPUs write\n", load->name);
		exit(1);
	}
	first = (uint64_t)(random_unit(random) * (double)(guest->pages - guest->used));
	if (load->zero_last)
		first = 0;
	guest->first = first;
	for (uint32_t n = 0; n < guest->vcpu_count; n++)
		for (int i = 0; i < CREW_STREAMS; i++)
			guest->vcpus[n].streams[i].first += first;
}

static bool is_zero(const struct guest *guest, const struct load *load, uint64_t page)
{
	double unused = (double)(guest->pages - guest->used);

	if (load->zero_last)
		return (double)page >= (1 - load->zero_share) * (double)guest->pages;
	return page - guest->first >= guest->used &&
	       random_unit(guest->random) < load->zero_share * (double)guest->pages / unused;
}

void guest_place(const struct guest *guest, const struct load *load, struct kernel *kernel)
{
	for (uint64_t page = 0; page < guest->pages && load->zero_share > 0; page++)
		if (is_zero(guest, load, page))
			kernel->zero[page / 64] |= UINT64_C(1) << page % 64;
}

static uint64_t pick(struct stream *stream, struct random *random)
{
	/* Knuth's multiplier scatters the ranks. */
	const uint64_t scatter = 2654435761;
	uint64_t rank, page;

	switch (stream->kind) {
	case STREAM_ZIPF:
		rank = (uint64_t)exp(random_unit(random) * stream->log_pages) - 1;
		page = (rank < stream->pages ? rank : stream->pages - 1) * scatter % stream->pages;
		break;
	case STREAM_HOT:
		page = random_unit(random) < 0.9 ? stream->pages / 10 : stream->pages;
		page = (uint64_t)(random_unit(random) * (double)page);
		break;
	case STREAM_SWEEP:
	case STREAM_GC:
		page = stream->position++;
		if (stream->position >= stream->pages)
			stream->position = 0;
		break;
	default:
		page = (uint64_t)(random_unit(random) * (double)stream->pages);
	}
	return stream->first + page;
}

/* Whether the stream writes now. A GC whose time has come begins its sweep. */
static bool is_on(struct guest *guest, struct stream *stream, double at_s)
{
	if (stream->kind != STREAM_GC)
		return !(stream->off_s > 0) ||
		       fmod(at_s + stream->phase_s, stream->on_s + stream->off_s) < stream->on_s;
	if (stream->left)
		return true;
	if (at_s < stream->next_s)
		return false;
	stream->left = stream->pages;
	stream->position = 0;
	stream->owed = 0;
	stream->next_s = at_s + stream->off_s * random_between(guest->random, 0.8, 1.2);
	return true;
}

static bool run_stream(struct guest *guest, struct kernel *kernel, struct kernel_vcpu *vcpu,
		       struct stream *stream)
{
	while (stream->owed >= 1) {
		stream->owed -= 1;
		if (stream->kind == STREAM_GC && !--stream->left)
			stream->owed = 0;
		if (kernel_write(kernel, vcpu, pick(stream, guest->random)))
			return true;
	}
	return false;
}

bool guest_run(struct guest *guest, struct kernel *kernel, uint32_t vcpu, double at_s, double for_s,
	       double share)
{
	bool full = false;

	for (int i = 0; i < CREW_STREAMS; i++) {
		struct stream *stream = &guest->vcpus[vcpu].streams[i];

		if (stream->kind == STREAM_NONE)
			break;
		if (is_on(guest, stream, at_s))
			stream->owed += stream->pages_per_s * for_s * share;
		if (!full)
			full = run_stream(guest, kernel, &kernel->vcpus[vcpu], stream);
	}
	return full;
}
