/* SPDX-License-Identifier: MIT */
/* dl_vcpu_add(): arguments, everything that is refused, and what a handle keeps. */
#include "cmocka_all.h"
#include "guest.h"
#include "log.h"

#include <errno.h>
#include <sys/ioctl.h>

enum { PAGES = 600, ENTRIES = 256 };

static struct guest guest;

static void begin(uint32_t mode)
{
	const struct guest_config config = { .options = { .mode = mode, .ring_entries = ENTRIES } };

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
}

static int setup_ring(void **state)
{
	begin(DL_MODE_RING);
	return guest_try_join(&guest, DL_CURSOR_CLEAN);
}

static int setup_bitmap(void **state)
{
	begin(DL_MODE_BITMAP);
	return guest_try_join(&guest, DL_CURSOR_CLEAN);
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define ring_test(f)   cmocka_unit_test_setup_teardown(f, setup_ring, teardown)
#define bitmap_test(f) cmocka_unit_test_setup_teardown(f, setup_bitmap, teardown)

static void fail_once(unsigned long request, uint32_t skip, int error)
{
	const struct model_fault fault = {
		.request = request, .skip = skip, .times = 1, .error = error
	};

	assert_int_equal(model_fault(guest.model, &fault), 0);
}

static void write_pages(struct guest_vcpu *vcpu, uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
}

static void arguments_are_checked(void **state)
{
	struct dl_vcpu *handle = NULL;
	struct guest_vcpu *vcpu = guest_vcpu(&guest, false);

	assert_int_equal(dl_vcpu_add(NULL, vcpu->fd, 0, 0, &handle), -EINVAL);
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, NULL), -EINVAL);
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 1, &handle), -EINVAL);
	assert_int_equal(dl_vcpu_drain(NULL, 0), -EINVAL);
	assert_int_equal(dl_vcpu_stats(NULL, NULL), -EINVAL);
	dl_vcpu_remove(NULL);
	assert_null(handle);
	guest_vcpu_add(&guest, vcpu);
	assert_int_equal(dl_vcpu_stats(vcpu->handle, NULL), -EINVAL);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 1), -EINVAL);
}

static void only_a_vcpu_is_added(void **state)
{
	struct dl_vcpu *handle = NULL;

	assert_int_equal(dl_vcpu_add(guest.log, guest.vm_fd, 0, 0, &handle), -EBADF);
	assert_int_equal(dl_vcpu_add(guest.log, model_system_fd(guest.model), 0, 0, &handle),
			 -EBADF);
	assert_int_equal(dl_vcpu_add(guest.log, -1, 0, 0, &handle), -EBADF);
	assert_int_equal(dl_vcpu_add(guest.log, 0, 0, 0, &handle), -EBADF);
	assert_null(handle);
}

static bool eio(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	*result = -EIO;
	return true;
}

static void a_vcpu_of_another_process_is_refused_with_eio(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, false);

	guest.config.intercept = eio;
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &vcpu->handle), -EIO);
	guest.config.intercept = NULL;
	assert_null(vcpu->handle);
	guest_vcpu_add(&guest, vcpu);
}

static void a_failure_leaves_no_handle(void **state)
{
	struct dl_vcpu *const stale = (struct dl_vcpu *)&guest, *handle = stale;
	struct guest_vcpu *vcpu = guest_vcpu(&guest, false);

	assert_int_equal(dl_vcpu_add(NULL, vcpu->fd, 0, 0, &handle), -EINVAL);
	assert_null(handle);
	handle = stale;
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 1, &handle), -EINVAL);
	assert_null(handle);
	handle = stale;
	assert_int_equal(dl_vcpu_add(guest.log, -1, 0, 0, &handle), -EBADF);
	assert_null(handle);
}

static void a_mapping_that_fails_is_an_error(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, false);
	uint64_t unmapped = model_calls(guest.model, MODEL_CALL_MUNMAP);

	fail_once(MODEL_CALL_MMAP_VCPU, 0, ENOMEM);
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &vcpu->handle), -ENOMEM);
	assert_int_equal(model_calls(guest.model, MODEL_CALL_MUNMAP), unmapped);
	fail_once(MODEL_CALL_MMAP_VCPU, 1, ENFILE);
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &vcpu->handle), -ENFILE);
	assert_int_equal(model_calls(guest.model, MODEL_CALL_MUNMAP), unmapped + 1);
	guest_vcpu_add(&guest, vcpu);
}

static void a_vcpu_is_added_once(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true), *other = guest_vcpu(&guest, true);
	struct dl_vcpu *handle = NULL;

	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &handle), -EEXIST);
	assert_int_equal(dl_vcpu_add(guest.log, other->fd, 0, 0, &handle), -EEXIST);
	assert_null(handle);
	write_pages(vcpu, 0, 1);
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &handle), -EEXIST);
	assert_int_equal(guest_pass(&guest, 0, &(uint64_t){ 0 }, 1), 1);
}

static void a_vcpu_keeps_the_cookie_of_its_last_adding(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, false);

	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 1ull << 40, 0, &vcpu->handle), 0);
	assert_int_equal(vcpu->handle->cookie, 1ull << 40);
	dl_vcpu_remove(vcpu->handle);
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 7, 0, &vcpu->handle), 0);
	assert_int_equal(vcpu->handle->cookie, 7);
}

/* There is nothing to tell the two by; the header says so. */
static void a_vcpu_added_twice_does_no_harm_in_bitmap_mode(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	struct dl_vcpu *second = NULL;

	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &second), 0);
	dl_vcpu_remove(second);
	write_pages(vcpu, 3, 1);
	assert_int_equal(guest_pass(&guest, DL_HARVEST_PAUSED, &(uint64_t){ 0 }, 1), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(arguments_are_checked),
		bitmap_test(arguments_are_checked),
		ring_test(only_a_vcpu_is_added),
		bitmap_test(only_a_vcpu_is_added),
		ring_test(a_vcpu_of_another_process_is_refused_with_eio),
		ring_test(a_failure_leaves_no_handle),
		bitmap_test(a_failure_leaves_no_handle),
		ring_test(a_mapping_that_fails_is_an_error),
		ring_test(a_vcpu_is_added_once),
		ring_test(a_vcpu_keeps_the_cookie_of_its_last_adding),
		bitmap_test(a_vcpu_keeps_the_cookie_of_its_last_adding),
		bitmap_test(a_vcpu_added_twice_does_no_harm_in_bitmap_mode),
	};

	return RUN_TESTS("vcpu_add", tests);
}
