/* SPDX-License-Identifier: MIT */
#include "../clock.h"
#include "machine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The vCPU threads. Each runs its vCPU until it is paused, and then parks. */

#define STOP_LIMIT_NS (20 * NS_PER_S)

int vcpu_fail(struct vcpu *vcpu, int failure, const char *format, ...)
{
	int n = snprintf(vcpu->why, sizeof(vcpu->why), "vCPU %u: ", vcpu->id);
	va_list args;

	va_start(args, format);
	vsnprintf(vcpu->why + n, sizeof(vcpu->why) - (size_t)n, format, args);
	va_end(args);
	return failure;
}

/* Called with the lock held; releases it while waiting. */
static void park(struct vcpu *vcpu)
{
	struct machine *machine = vcpu->machine;
	int r;

	if (!vcpu->io_complete) {
		pthread_mutex_unlock(&machine->lock);
		r = machine->kind->complete_io(vcpu);
		pthread_mutex_lock(&machine->lock);
		if (r && !vcpu->failure)
			vcpu->failure = r;
		vcpu->io_complete = true;
	}
	vcpu->parked = true;
	pthread_cond_broadcast(&machine->changed);
	while (!machine->exiting && (!machine->running || vcpu->failure))
		pthread_cond_wait(&machine->changed, &machine->lock);
	vcpu->parked = false;
	/* Under the lock, so that it cannot undo the interrupt of a concurrent pause. */
	if (!machine->exiting)
		machine->kind->resume(vcpu);
}

static void record_damage(struct vcpu *vcpu)
{
	const struct guest_control *control = machine_control(vcpu->machine, vcpu->id);

	vcpu->failure = vcpu_fail(vcpu, -EBADMSG,
				  "the guest found damage at %#" PRIx64 ": generation %" PRIu64
				  ", expected %" PRIu64,
				  control->bad_address, control->bad_found, control->bad_expected);
}

/* The guest rang its doorbell. Called with the lock held. */
static void quantum_done(struct vcpu *vcpu, uint64_t now_ns)
{
	pthread_cond_broadcast(&vcpu->machine->changed);
	if (!vcpu->machine->quantum_ns)
		return;
	vcpu->due_ns += vcpu->machine->quantum_ns;
	/* Do not catch up on quanta that were missed while it was stopped or too slow. */
	if (vcpu->due_ns + vcpu->machine->quantum_ns < now_ns)
		vcpu->due_ns = now_ns;
}

static void end_hold(struct vcpu *vcpu)
{
	uint64_t ns;

	vcpu->hold_end_ns = 0;
	if (!vcpu->hold_start_ns)
		return;
	ns = clock_ns() - vcpu->hold_start_ns;
	vcpu->hold_start_ns = 0;
	vcpu->holds.held_ns += ns;
	vcpu->holds.count++;
	if (ns > vcpu->holds.longest_ns)
		vcpu->holds.longest_ns = ns;
}

/* Returns false if the vCPU may enter the guest, or true after waiting for a while. */
static bool is_held(struct vcpu *vcpu)
{
	struct machine *machine = vcpu->machine;
	uint64_t now_ns = clock_ns(), pause_ns = 0;
	struct timespec end;

	if (vcpu->hold_end_ns <= now_ns || vcpu->kicked) {
		/* Forget the kick first: one that comes later makes it ask again. */
		vcpu->kicked = false;
		machine->kind->resume(vcpu);
		if (machine->pause_due)
			pause_ns = machine->pause_due(machine->pause_opaque, vcpu);
		vcpu->was_full = false;
		if (!pause_ns) {
			end_hold(vcpu);
			return false;
		}
		if (!vcpu->hold_start_ns)
			vcpu->hold_start_ns = now_ns;
		vcpu->hold_end_ns = now_ns + pause_ns;
	}
	end = clock_timespec(vcpu->hold_end_ns);
	pthread_cond_timedwait(&machine->changed, &machine->lock, &end);
	return true;
}

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;
	struct machine *machine = vcpu->machine;
	struct timespec due;
	int event;

	pthread_mutex_lock(&machine->lock);
	while (!machine->exiting) {
		if (!machine->running || vcpu->failure) {
			end_hold(vcpu);
			park(vcpu);
			continue;
		}
		if (is_held(vcpu))
			continue;
		if (machine->quantum_ns && vcpu->due_ns > clock_ns()) {
			due = clock_timespec(vcpu->due_ns);
			pthread_cond_timedwait(&machine->changed, &machine->lock, &due);
			continue;
		}
		vcpu->io_complete = false;
		pthread_mutex_unlock(&machine->lock);
		event = machine->kind->run(vcpu);
		pthread_mutex_lock(&machine->lock);
		if (event == GUEST_EVENT_QUANTUM)
			quantum_done(vcpu, clock_ns());
		else if (event == GUEST_EVENT_READ)
			vcpu->reads += machine_control(machine, vcpu->id)->quantum;
		else if (event == GUEST_EVENT_DAMAGE)
			record_damage(vcpu);
		else if (event < 0)
			vcpu->failure = event;
	}
	pthread_mutex_unlock(&machine->lock);
	return NULL;
}

int machine_start(struct machine *machine)
{
	struct vcpu *vcpu;
	uint32_t id;
	int r;

	for (id = 0; id < machine->layout.vcpus; id++) {
		vcpu = &machine->vcpus[id];
		r = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
		if (r)
			return machine_fail(machine, -r, "cannot start a thread for vCPU %u: %s",
					    id, strerror(r));
		vcpu->has_thread = true;
	}
	return machine_pause(machine);
}

void machine_resume(struct machine *machine)
{
	uint64_t now_ns = clock_ns();
	uint32_t id;

	pthread_mutex_lock(&machine->lock);
	machine->running = true;
	for (id = 0; id < machine->layout.vcpus; id++)
		machine->vcpus[id].due_ns = now_ns;
	pthread_cond_broadcast(&machine->changed);
	pthread_mutex_unlock(&machine->lock);
}

void machine_set_pauses(struct machine *machine, uint64_t (*pause_due)(void *, struct vcpu *),
			void *opaque)
{
	uint32_t id;

	pthread_mutex_lock(&machine->lock);
	machine->pause_due = pause_due;
	machine->pause_opaque = opaque;
	for (id = 0; id < machine->layout.vcpus; id++)
		machine->vcpus[id].kicked = true;
	pthread_cond_broadcast(&machine->changed);
	pthread_mutex_unlock(&machine->lock);
}

void machine_kick(struct machine *machine, uint32_t id)
{
	struct vcpu *vcpu = &machine->vcpus[id];

	pthread_mutex_lock(&machine->lock);
	vcpu->kicked = true;
	if (vcpu->hold_start_ns)
		pthread_cond_broadcast(&machine->changed);
	else if (!vcpu->parked)
		machine->kind->interrupt(vcpu);
	pthread_mutex_unlock(&machine->lock);
}

void machine_holds(struct machine *machine, uint32_t id, struct vcpu_holds *holds)
{
	const struct vcpu *vcpu = &machine->vcpus[id];
	uint64_t ns;

	pthread_mutex_lock(&machine->lock);
	*holds = vcpu->holds;
	if (vcpu->hold_start_ns) {
		ns = clock_ns() - vcpu->hold_start_ns;
		holds->held_ns += ns;
		holds->count++;
		if (ns > holds->longest_ns)
			holds->longest_ns = ns;
	}
	pthread_mutex_unlock(&machine->lock);
}

/* The first vCPU that is not parked, or NULL. */
static struct vcpu *still_running(struct machine *machine)
{
	uint32_t id;

	for (id = 0; id < machine->layout.vcpus; id++)
		if (!machine->vcpus[id].parked)
			return &machine->vcpus[id];
	return NULL;
}

int machine_pause(struct machine *machine)
{
	struct timespec limit = clock_timespec(clock_ns() + STOP_LIMIT_NS);
	struct vcpu *vcpu;
	uint32_t id;
	int r = 0;

	pthread_mutex_lock(&machine->lock);
	machine->running = false;
	for (id = 0; id < machine->layout.vcpus; id++)
		machine->kind->interrupt(&machine->vcpus[id]);
	pthread_cond_broadcast(&machine->changed);
	while (!r && (vcpu = still_running(machine)))
		if (pthread_cond_timedwait(&machine->changed, &machine->lock, &limit))
			r = machine_fail(machine, -ETIMEDOUT, "vCPU %u did not stop within %u s",
					 vcpu->id, (unsigned)(STOP_LIMIT_NS / NS_PER_S));
	pthread_mutex_unlock(&machine->lock);
	return r;
}

int machine_failure(struct machine *machine, char *why, size_t why_bytes)
{
	uint32_t id;
	int r = 0;

	pthread_mutex_lock(&machine->lock);
	for (id = 0; !r && id < machine->layout.vcpus; id++) {
		r = machine->vcpus[id].failure;
		if (r)
			snprintf(why, why_bytes, "%s", machine->vcpus[id].why);
	}
	pthread_mutex_unlock(&machine->lock);
	return r;
}

uint64_t machine_records(struct machine *machine)
{
	uint64_t records = 0;
	uint32_t id;

	for (id = 0; id < machine->layout.vcpus; id++)
		records +=
			__atomic_load_n(&machine_control(machine, id)->records, __ATOMIC_RELAXED);
	return records;
}

static uint64_t cpu_ns(const struct vcpu *vcpu)
{
	struct timespec time;
	clockid_t clock;

	if (pthread_getcpuclockid(vcpu->thread, &clock) || clock_gettime(clock, &time))
		return 0;
	return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

struct machine_reads machine_reads(struct machine *machine)
{
	struct machine_reads reads = { 0 };
	uint32_t id;

	for (id = 0; id < machine->layout.vcpus; id++)
		if (machine_is_reader(machine, id) && machine->vcpus[id].has_thread) {
			reads.pages += machine->vcpus[id].reads;
			reads.cpu_ns += cpu_ns(&machine->vcpus[id]);
		}
	return reads;
}

/*
 * Sets the paused guest up to go over each share once and then ring the doorbell. Returns which
 * vCPUs were readers; they write in this round.
 */
static uint32_t set_up_round(struct machine *machine)
{
	struct guest_control *control;
	uint32_t id, readers = 0;

	for (id = 0; id < machine->layout.vcpus; id++) {
		control = machine_control(machine, id);
		if (machine_is_reader(machine, id))
			readers |= 1u << id;
		control->pattern = GUEST_PATTERN_SEQUENTIAL;
		control->next_index = 0;
		/* One more than the share: it may have been stopped halfway through a page. */
		control->quantum = control->share_pages + 1;
		control->quantum_left = control->share_pages + 1;
		machine->vcpus[id].round_records = control->records + control->quantum;
	}
	machine->quantum_ns = 0;
	return readers;
}

static void make_readers(struct machine *machine, uint32_t readers)
{
	uint32_t id;

	for (id = 0; id < machine->layout.vcpus; id++)
		if (readers & 1u << id) {
			machine_control(machine, id)->pattern = GUEST_PATTERN_READ;
			machine_control(machine, id)->quantum = MACHINE_READS;
		}
}

/* The first vCPU that has not gone over its share yet, or NULL. */
static struct vcpu *round_laggard(struct machine *machine)
{
	const uint64_t *records;
	uint32_t id;

	for (id = 0; id < machine->layout.vcpus; id++) {
		records = &machine_control(machine, id)->records;
		if (__atomic_load_n(records, __ATOMIC_RELAXED) < machine->vcpus[id].round_records)
			return &machine->vcpus[id];
	}
	return NULL;
}

/* Called with the lock held. */
static bool any_failed(struct machine *machine)
{
	uint32_t id;

	for (id = 0; id < machine->layout.vcpus; id++)
		if (machine->vcpus[id].failure)
			return true;
	return false;
}

/* Others may have gone over theirs: a vCPU that never runs shows in nothing else. */
static int late(struct machine *machine, const struct vcpu *vcpu, char *why, size_t why_bytes)
{
	const struct guest_control *control = machine_control(machine, vcpu->id);
	uint64_t left = vcpu->round_records - control->records;

	snprintf(why, why_bytes,
		 "vCPU %u has not checked all of its pages in time: %" PRIu64 " of %" PRIu64
		 " are left",
		 vcpu->id, left > control->share_pages ? control->share_pages : left,
		 control->share_pages);
	return -ETIMEDOUT;
}

static int check_result(struct machine *machine, struct machine_check *check)
{
	const struct vcpu *laggard = round_laggard(machine);
	int r = machine_failure(machine, check->why, sizeof(check->why));

	return r || !laggard ? r : late(machine, laggard, check->why, sizeof(check->why));
}

void machine_check(struct machine *machine, uint64_t limit_ns, struct machine_check *check)
{
	uint64_t start_ns = clock_ns(), records = machine_records(machine), written;
	uint64_t pages = machine->layout.share_pages * machine->layout.vcpus;
	uint64_t limits = 1 + (pages * machine->layout.page_bytes >> 30);
	struct timespec limit = clock_timespec(start_ns + limits * limit_ns);
	uint32_t readers = set_up_round(machine);
	int r = 0;

	memset(check, 0, sizeof(*check));
	machine_resume(machine);
	pthread_mutex_lock(&machine->lock);
	/* Every doorbell wakes this up, one from before the round too: check the record counts. */
	while (!r && !any_failed(machine) && round_laggard(machine))
		r = pthread_cond_timedwait(&machine->changed, &machine->lock, &limit);
	pthread_mutex_unlock(&machine->lock);
	r = machine_pause(machine);
	make_readers(machine, readers);
	check->ns = clock_ns() - start_ns;
	written = machine_records(machine) - records;
	check->records = written;
	check->checked_pages = !round_laggard(machine) || written > pages ? pages : written;
	if (r)
		snprintf(check->why, sizeof(check->why), "%.150s", machine->why);
	else
		r = check_result(machine, check);
	check->failure = r;
	check->healthy = !r;
}
