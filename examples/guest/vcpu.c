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

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;
	struct machine *machine = vcpu->machine;
	struct timespec due;
	int event;

	pthread_mutex_lock(&machine->lock);
	while (!machine->exiting) {
		if (!machine->running || vcpu->failure) {
			park(vcpu);
			continue;
		}
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

/* Sets the paused guest up to go over each share once and then ring the doorbell. */
static void set_up_round(struct machine *machine)
{
	struct guest_control *control;
	uint32_t id;

	for (id = 0; id < machine->layout.vcpus; id++) {
		control = machine_control(machine, id);
		control->pattern = GUEST_PATTERN_SEQUENTIAL;
		control->next_index = 0;
		/* One more than the share: it may have been stopped halfway through a page. */
		control->quantum = control->share_pages + 1;
		control->quantum_left = control->share_pages + 1;
		machine->vcpus[id].round_records = control->records + control->quantum;
	}
	machine->quantum_ns = 0;
}

static bool round_complete(struct machine *machine)
{
	const uint64_t *records;
	uint32_t id;

	for (id = 0; id < machine->layout.vcpus; id++) {
		records = &machine_control(machine, id)->records;
		if (__atomic_load_n(records, __ATOMIC_RELAXED) < machine->vcpus[id].round_records)
			return false;
	}
	return true;
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

void machine_check(struct machine *machine, uint64_t limit_ns, struct machine_check *check)
{
	uint64_t start_ns = clock_ns(), records = machine_records(machine), written;
	struct timespec limit = clock_timespec(start_ns + limit_ns);
	uint64_t pages = machine->layout.share_pages * machine->layout.vcpus;
	int r = 0;

	memset(check, 0, sizeof(*check));
	set_up_round(machine);
	machine_resume(machine);
	pthread_mutex_lock(&machine->lock);
	/* Every doorbell wakes this up, one from before the round too: check the record counts. */
	while (!r && !any_failed(machine) && !round_complete(machine))
		r = pthread_cond_timedwait(&machine->changed, &machine->lock, &limit);
	pthread_mutex_unlock(&machine->lock);
	r = machine_pause(machine);
	check->ns = clock_ns() - start_ns;
	written = machine_records(machine) - records;
	check->records = written;
	check->complete = round_complete(machine);
	check->checked_pages = check->complete || written > pages ? pages : written;
	if (r)
		snprintf(check->why, sizeof(check->why), "%.150s", machine->why);
	else
		r = machine_failure(machine, check->why, sizeof(check->why));
	if (!r && !written) {
		r = -ETIMEDOUT;
		snprintf(check->why, sizeof(check->why), "the guest made no progress");
	}
	check->healthy = !r;
}
