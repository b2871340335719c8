/* SPDX-License-Identifier: MIT */
/* Start and stop: the ioctls, their order, and the state after a failure. */
#include "cmocka_all.h"
#include "guest.h"
#include "log.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { SLOTS = 3, PAGES = 100, MAX_CALLS = 64 };

static struct guest guest;

/* The ioctls that change something, and their results. */
static struct {
	struct {
		unsigned long request;
		uint32_t first, flags;
		uint64_t value;
	} calls[MAX_CALLS];
	unsigned int n;
} seen;

static bool watch(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	const struct kvm_userspace_memory_region *region = arg;
	const struct kvm_enable_cap *cap = arg;

	if (seen.n == MAX_CALLS)
		return false;
	seen.calls[seen.n].request = request;
	if (request == KVM_SET_USER_MEMORY_REGION) {
		seen.calls[seen.n].first = region->slot;
		seen.calls[seen.n].flags = region->flags;
		seen.calls[seen.n++].value = region->memory_size;
	} else if (request == KVM_ENABLE_CAP) {
		seen.calls[seen.n].first = cap->cap;
		seen.calls[seen.n++].value = cap->args[0];
	} else if (request == KVM_RESET_DIRTY_RINGS || request == KVM_GET_DIRTY_LOG) {
		seen.n++;
	}
	return false;
}

static void begin(uint32_t has, uint32_t mode)
{
	const struct guest_config config = { .model = { .has = has },
					     .options = { .mode = mode },
					     .intercept = watch };

	guest_open(&guest, &config);
	for (uint32_t i = 0; i < SLOTS; i++)
		guest_add_slot(&guest, i, 1000 * i, PAGES);
	seen.n = 0;
}

static void begin_ring(void)
{
	begin(0, DL_MODE_RING);
}

/* Whether the model logs the slot: a kernel write appears in the bitmap, otherwise GET fails. */
static bool is_logged(uint32_t slot)
{
	uint64_t words[2];
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = words };
	const struct dl_os *os = model_os(guest.model);

	return os->ioctl(os->opaque, guest.vm_fd, KVM_GET_DIRTY_LOG, &log) != -ENOENT;
}

static void arguments_and_states_are_checked(void **state)
{
	begin_ring();
	assert_int_equal(dl_log_start(NULL, 0), -EINVAL);
	assert_int_equal(dl_log_stop(NULL), -EINVAL);
	assert_int_equal(dl_log_start(guest.log, 2), -EINVAL);
	assert_int_equal(dl_log_stop(guest.log), 0);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(dl_log_start(guest.log, 0), -EBUSY);
	assert_int_equal(dl_log_stop(guest.log), 0);
	assert_int_equal(dl_log_stop(guest.log), 0);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	guest_close(&guest);
}

static void every_page_is_pending_after_a_start(void **state)
{
	uint64_t pages[SLOTS * PAGES];

	begin_ring();
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(guest_stats(&guest).pending_bytes, SLOTS * PAGES * 4096);
	assert_int_equal(guest_drain(&guest, pages, SLOTS * PAGES), SLOTS * PAGES);
	for (uint64_t i = 0; i < SLOTS * PAGES; i++)
		assert_int_equal(pages[i], i / PAGES * 1000 + i % PAGES);
	guest_close(&guest);
}

static void no_page_is_pending_after_a_clean_start(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };
	uint64_t page;

	for (int i = 0; i < 2; i++) {
		struct guest_vcpu *vcpu;

		begin(0, modes[i]);
		vcpu = guest_vcpu(&guest, true);
		/* Written pages are mapped writable when logging begins. */
		assert_int_equal(guest_write(&guest, vcpu, 0, 1005), 0);
		assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
		assert_int_equal(guest_pass(&guest, 0, &page, 1), 0);
		assert_int_equal(guest_write(&guest, vcpu, 0, 1005), 0);
		assert_int_equal(guest_pass(&guest, 0, &page, 1), 1);
		assert_int_equal(page, 1005);
		guest_close(&guest);
	}
}

static void each_slot_gets_its_flag_and_loses_it(void **state)
{
	begin_ring();
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(seen.n, SLOTS);
	for (uint32_t i = 0; i < SLOTS; i++) {
		assert_int_equal(seen.calls[i].first, i);
		assert_int_equal(seen.calls[i].flags, KVM_MEM_LOG_DIRTY_PAGES);
		assert_int_equal(seen.calls[i].value, PAGES * 4096);
	}
	assert_int_equal(dl_log_stop(guest.log), 0);
	assert_int_equal(seen.n, 2 * SLOTS);
	for (uint32_t i = SLOTS; i < 2 * SLOTS; i++) {
		assert_int_equal(seen.calls[i].flags, 0);
		assert_int_equal(seen.calls[i].value, PAGES * 4096);
	}
	guest_close(&guest);
}

/* INITIALLY_SET reports every page, so only a start with all pages dirty uses it. */
static void manual_protect_is_chosen_before_any_flag(void **state)
{
	begin(0, DL_MODE_BITMAP);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(seen.calls[0].request, KVM_ENABLE_CAP);
	assert_int_equal(seen.calls[0].first, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	assert_int_equal(seen.calls[0].value, 3);
	assert_int_equal(seen.n, 1 + SLOTS);
	assert_int_equal(dl_log_stop(guest.log), 0);
	seen.n = 0;
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	assert_int_equal(seen.calls[0].request, KVM_ENABLE_CAP);
	assert_int_equal(seen.calls[0].value, 1);
	guest_close(&guest);
	begin(MODEL_HAS_MANUAL_PROTECT, DL_MODE_BITMAP);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(seen.calls[0].value, 1);
	guest_close(&guest);
	begin(MODEL_HAS_NOTHING, DL_MODE_BITMAP);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(seen.n, SLOTS);
	guest_close(&guest);
}

static void manual_protect_that_fails_leaves_logging_off(void **state)
{
	const struct model_fault fault = { .request = KVM_ENABLE_CAP, .times = 1, .error = EPERM };

	begin(0, DL_MODE_BITMAP);
	model_fault(guest.model, &fault);
	assert_int_equal(dl_log_start(guest.log, 0), -EPERM);
	assert_int_equal(dl_harvest(guest.log, 0, NULL), -ECANCELED);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	guest_close(&guest);
}

static void a_failed_slot_is_named_and_the_others_are_switched_off_again(void **state)
{
	char text[600];

	begin(0, DL_MODE_BITMAP);
	guest_fail_region(&guest, 1, 0, 1);
	assert_int_equal(dl_log_start(guest.log, 0), -ENOMEM);
	for (uint32_t i = 0; i < SLOTS; i++)
		assert_false(is_logged(i));
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "slot 1 of address space 0"));
	assert_non_null(strstr(text, "Cannot allocate memory"));
	assert_int_equal(dl_harvest(guest.log, 0, NULL), -ECANCELED);
	assert_int_equal(guest_stats(&guest).pending_bytes, 0);
	/* The next start succeeds and forgets the failure. */
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_null(strstr(text, "failure"));
	guest_close(&guest);
}

static void logging_is_off_even_after_a_failed_stop(void **state)
{
	char text[600];

	begin(0, DL_MODE_BITMAP);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	guest_fail_region(&guest, 0, 0, 1);
	assert_int_equal(dl_log_stop(guest.log), -ENOMEM);
	assert_true(is_logged(0));
	assert_false(is_logged(1));
	assert_false(is_logged(2));
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "switched off for slot 0"));
	assert_int_equal(dl_harvest(guest.log, 0, NULL), -ECANCELED);
	/* The next stop tries that slot again, and only that one. */
	seen.n = 0;
	assert_int_equal(dl_log_stop(guest.log), 0);
	assert_int_equal(seen.n, 1);
	assert_false(is_logged(0));
	guest_close(&guest);
}

static void a_start_after_a_failed_stop_switches_off_first(void **state)
{
	begin(0, DL_MODE_BITMAP);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	guest_fail_region(&guest, 2, 0, 2);
	assert_int_equal(dl_log_stop(guest.log), -ENOMEM);
	assert_int_equal(dl_log_start(guest.log, 0), -ENOMEM);
	assert_int_equal(dl_harvest(guest.log, 0, NULL), -ECANCELED);
	seen.n = 0;
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(seen.calls[0].first, 2);
	assert_int_equal(seen.calls[0].flags, 0);
	assert_int_equal(seen.calls[1].request, KVM_ENABLE_CAP);
	guest_close(&guest);
}

static void a_stop_discards_pending_pages(void **state)
{
	uint64_t page;

	begin_ring();
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(dl_log_stop(guest.log), 0);
	assert_int_equal(guest_stats(&guest).pending_bytes, 0);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 0);
	guest_close(&guest);
}

/* An old entry neither dirties a page of a clean start nor stays in the ring. */
static void rings_are_emptied_by_stop_and_by_start(void **state)
{
	struct guest_vcpu *vcpu;
	struct model_ring ring;
	uint64_t page;

	begin_ring();
	vcpu = guest_vcpu(&guest, true);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	for (uint64_t i = 0; i < 50; i++)
		assert_int_equal(guest_write(&guest, vcpu, 0, i), 0);
	assert_int_equal(dl_log_stop(guest.log), 0);
	model_vcpu_ring(guest.model, vcpu->fd, &ring);
	assert_int_equal(ring.dirty_index, 50);
	assert_int_equal(ring.reset_index, 50);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 0);
	guest_close(&guest);
}

static struct guest_vcpu *late_vcpu;

/* The guest writes at the last moment at which a write is recorded. */
static bool write_before_the_flag_goes(struct guest *g, int fd, unsigned long request, void *arg,
				       int *result)
{
	const struct kvm_userspace_memory_region *region = arg;

	if (request == KVM_SET_USER_MEMORY_REGION && !region->flags && late_vcpu)
		assert_int_equal(guest_write(g, late_vcpu, 0, region->guest_phys_addr / 4096), 0);
	return false;
}

/* Otherwise the rings would fill up some day, because nothing drains them any more. */
static void rings_do_not_fill_after_the_drain_of_a_stop(void **state)
{
	struct model_ring ring;

	begin_ring();
	guest.config.intercept = write_before_the_flag_goes;
	late_vcpu = guest_vcpu(&guest, true);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	assert_int_equal(dl_log_stop(guest.log), 0);
	model_vcpu_ring(guest.model, late_vcpu->fd, &ring);
	assert_int_equal(ring.dirty_index, SLOTS);
	assert_int_equal(ring.reset_index, SLOTS);
	late_vcpu = NULL;
	guest_close(&guest);
}

static void an_iterator_from_before_a_stop_is_canceled(void **state)
{
	struct dl_iter *iter;
	struct dl_run run;

	begin_ring();
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(dl_iter_new(guest.log, 0, &iter), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	assert_int_equal(dl_log_stop(guest.log), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), -ECANCELED);
	assert_int_equal(dl_iter_ack(iter, &run, 1), -ECANCELED);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), -ECANCELED);
	assert_int_equal(dl_iter_ack(iter, &run, 1), -ECANCELED);
	dl_iter_free(iter);
	/* It requeued nothing and acknowledged nothing. */
	assert_int_equal(guest_stats(&guest).pending_bytes, SLOTS * PAGES * 4096);
	guest_close(&guest);
}

static void a_reset_that_fails_fails_start_and_stop(void **state)
{
	const struct model_fault fault = { .request = KVM_RESET_DIRTY_RINGS,
					   .times = 1,
					   .error = EIO };
	struct guest_vcpu *vcpu;
	uint64_t page;

	begin_ring();
	vcpu = guest_vcpu(&guest, true);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 7), 0);
	model_fault(guest.model, &fault);
	assert_int_equal(dl_log_stop(guest.log), -EIO);
	assert_int_equal(dl_harvest(guest.log, 0, NULL), -ECANCELED);
	model_fault(guest.model, &fault);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), -EIO);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	/* More pages than were written may be reported, never fewer. */
	assert_int_equal(guest_write(&guest, vcpu, 0, 7), 0);
	assert_int_not_equal(guest_pass(&guest, 0, &page, 1), 0);
	guest_close(&guest);
}

/* Switching logging on protects every page, which is what a repair is for. */
static void a_clean_start_serves_a_repair_requested_before(void **state)
{
	begin_ring();
	dli_reset_request_repair(&guest.log->reset);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), 0);
	guest_close(&guest);
}

static int refuse_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	return -EPERM;
}

/* A thread that could be parked in a handler while it holds a lock must not take one. */
static void calls_fail_if_signals_cannot_be_blocked(void **state)
{
	struct dl_iter *iter = NULL, *second = NULL;
	int (*mask)(void *, int, const sigset_t *, sigset_t *);
	struct guest_vcpu *added, *other;
	struct dl_stats stats = { .size = sizeof(stats) };
	struct dl_slot slot;
	struct dl_run run;

	begin_ring();
	added = guest_vcpu(&guest, true);
	other = guest_vcpu(&guest, false);
	slot = guest_slot(&guest, 7, 7000, &guest.blocks[0], 0, 1);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(dl_iter_new(guest.log, 0, &iter), 0);
	mask = guest.os.signal_mask;
	guest.os.signal_mask = refuse_mask;
	assert_int_equal(dl_harvest(guest.log, 0, NULL), -EPERM);
	assert_int_equal(dl_iter_read(iter, &run, 1), -EPERM);
	assert_int_equal(dl_iter_new(guest.log, 0, &second), -EPERM);
	assert_null(second);
	assert_int_equal(dl_slot_set(guest.log, &slot), -EPERM);
	assert_int_equal(dl_slot_remove(guest.log, 0, 0), -EPERM);
	assert_int_equal(dl_vcpu_add(guest.log, other->fd, 0, 0, &other->handle), -EPERM);
	assert_null(other->handle);
	assert_int_equal(dl_vcpu_drain(added->handle, 0), -EPERM);
	assert_int_equal(dl_log_start(guest.log, 0), -EPERM);
	assert_int_equal(dl_log_stop(guest.log), -EPERM);
	assert_int_equal(dl_log_stats(guest.log, &stats), -EPERM);
	guest.os.signal_mask = mask;
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	dl_iter_free(iter);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
	guest_close(&guest);
}

static void calls_while_off_are_canceled(void **state)
{
	struct dl_iter *iter;
	uint64_t due_ns;

	begin_ring();
	assert_int_equal(dl_harvest(guest.log, 0, NULL), -ECANCELED);
	assert_int_equal(dl_iter_new(guest.log, 0, &iter), -ECANCELED);
	assert_int_equal(dl_log_harvest_due(guest.log, &due_ns), -ECANCELED);
	guest_close(&guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arguments_and_states_are_checked),
		cmocka_unit_test(every_page_is_pending_after_a_start),
		cmocka_unit_test(no_page_is_pending_after_a_clean_start),
		cmocka_unit_test(each_slot_gets_its_flag_and_loses_it),
		cmocka_unit_test(manual_protect_is_chosen_before_any_flag),
		cmocka_unit_test(manual_protect_that_fails_leaves_logging_off),
		cmocka_unit_test(a_failed_slot_is_named_and_the_others_are_switched_off_again),
		cmocka_unit_test(logging_is_off_even_after_a_failed_stop),
		cmocka_unit_test(a_start_after_a_failed_stop_switches_off_first),
		cmocka_unit_test(a_stop_discards_pending_pages),
		cmocka_unit_test(rings_are_emptied_by_stop_and_by_start),
		cmocka_unit_test(rings_do_not_fill_after_the_drain_of_a_stop),
		cmocka_unit_test(an_iterator_from_before_a_stop_is_canceled),
		cmocka_unit_test(a_reset_that_fails_fails_start_and_stop),
		cmocka_unit_test(a_clean_start_serves_a_repair_requested_before),
		cmocka_unit_test(calls_fail_if_signals_cannot_be_blocked),
		cmocka_unit_test(calls_while_off_are_canceled),
	};

	return RUN_TESTS("session", tests);
}
