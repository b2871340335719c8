/* SPDX-License-Identifier: MIT */
/* KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG of one slot: sizes, byte order and failures. */
#include "kvm/bitmap.h"
#include "cmocka_all.h"
#include "fake_os.h"
#include "kvm/uapi.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { VM_FD = 7 };

static struct fake_os fake;
static struct dli_bitmap_buffer buffer;
static int answer;
static struct kvm_dirty_log get;
static struct kvm_clear_dirty_log clear;

/* Page 1 of the first word and page 8 of the second, in the kernel's byte order. */
static const unsigned char kernel_bytes[16] = { 2, 0, 0, 0, 0, 0, 0, 0, 0, 1 };

static int kernel(struct fake_os *os, int fd, unsigned long request, void *arg)
{
	assert_int_equal(fd, VM_FD);
	if (request == KVM_GET_DIRTY_LOG) {
		memcpy(&get, arg, sizeof(get));
		memcpy(get.dirty_bitmap, kernel_bytes, sizeof(kernel_bytes));
	} else {
		assert_int_equal(request, KVM_CLEAR_DIRTY_LOG);
		memcpy(&clear, arg, sizeof(clear));
		assert_memory_equal(clear.dirty_bitmap, kernel_bytes, sizeof(kernel_bytes));
	}
	return answer;
}

static int setup(void **state)
{
	fake_os_init(&fake);
	fake.ioctl = kernel;
	answer = 0;
	memset(&get, 0xff, sizeof(get));
	memset(&clear, 0xff, sizeof(clear));
	return 0;
}

static int teardown(void **state)
{
	dli_bitmap_release(&buffer, &fake.os);
	return buffer.memory || buffer.bytes || fake.maps_live ? -1 : 0;
}

static struct dli_vm vm = { .os = &fake.os, .fd = VM_FD };

#define bitmap_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void bits_are_rounded_up_to_words(void **state)
{
	assert_int_equal(dli_bitmap_words(1), 1);
	assert_int_equal(dli_bitmap_words(64), 1);
	assert_int_equal(dli_bitmap_words(65), 2);
	assert_int_equal(dli_bitmap_words(100), 2);
	assert_int_equal(dli_bitmap_words((UINT64_C(1) << 31) - 1), 1 << 25);
}

static void get_names_the_slot_and_reads_little_endian(void **state)
{
	uint64_t *words;

	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, 100), 0);
	words = dli_bitmap_at(&buffer, 100);
	assert_int_equal(dli_bitmap_get(&vm, 1 << 16 | 3, words), 0);
	assert_int_equal(get.slot, 1 << 16 | 3);
	assert_ptr_equal(get.dirty_bitmap, words);
	assert_int_equal(dli_bitmap_word(words[0]), 2);
	assert_int_equal(dli_bitmap_word(words[1]), 256);
}

static void clear_names_its_pages_and_writes_little_endian(void **state)
{
	uint64_t words[2] = { 2, 256 };

	assert_int_equal(dli_bitmap_clear(&vm, 9, 640, 100, words), 0);
	assert_int_equal(clear.slot, 9);
	assert_int_equal(clear.first_page, 640);
	assert_int_equal(clear.num_pages, 100);
}

static void failures_are_returned(void **state)
{
	uint64_t words[2] = { 2, 256 };

	answer = -EFAULT;
	assert_int_equal(dli_bitmap_get(&vm, 0, words), -EFAULT);
	words[0] = 2;
	words[1] = 256;
	assert_int_equal(dli_bitmap_clear(&vm, 0, 0, 100, words), -EFAULT);
}

/* A GET that cannot write its buffer fails after it has cleared the log. */
static void the_buffer_is_resident(void **state)
{
	const uint64_t pages = UINT64_C(1) << 28, bytes = pages / 8;
	uint64_t before = resident_bytes();

	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, pages), 0);
	assert_true(buffer.bytes >= bytes);
	assert_true(resident_bytes() - before >= bytes);
}

static size_t buffer_page_bytes(void)
{
	return dli_os_page_bytes(&fake.os);
}

/* True if the kernel can read the byte, as it could write it. */
static bool is_accessible(const void *address)
{
	int ends[2], r;

	assert_int_equal(pipe(ends), 0);
	r = (int)write(ends[1], address, 1);
	close(ends[0]);
	close(ends[1]);
	return r == 1;
}

static void every_bitmap_ends_at_the_guard_page(void **state)
{
	static const uint64_t pages[] = { 1, 64, 65, 4096 * 8 - 1, 4096 * 8 };

	fake.os.page_bytes = 0; /* the system's, which mprotect(2) wants */
	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, 4096 * 8), 0);
	for (unsigned int i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		const uint64_t *words = dli_bitmap_at(&buffer, pages[i]);

		assert_true((const void *)words >= buffer.memory);
		assert_true(is_accessible(words + dli_bitmap_words(pages[i]) - 1));
		assert_false(is_accessible(words + dli_bitmap_words(pages[i])));
	}
}

static int refuse_mprotect(void *opaque, void *addr, size_t bytes, int prot)
{
	return -EACCES;
}

/* Without a guard, a GET of a larger slot would overwrite other memory unnoticed. */
static void a_buffer_without_its_guard_is_an_error(void **state)
{
	fake.os.mprotect = refuse_mprotect;
	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, 10), -EACCES);
	assert_null(buffer.memory);
	assert_int_equal(fake.maps_live, 0);
}

static void a_table_without_mprotect_has_no_guard(void **state)
{
	fake.os.mprotect = NULL;
	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, 10), 0);
	assert_non_null(buffer.memory);
}

static void the_buffer_grows_and_never_shrinks(void **state)
{
	const uint64_t page_pages = (uint64_t)buffer_page_bytes() * 8;
	const void *memory;

	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, 10), 0);
	assert_int_equal(buffer.bytes, buffer_page_bytes());
	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, page_pages + 1), 0);
	assert_int_equal(buffer.bytes, 2 * buffer_page_bytes());
	memory = buffer.memory;
	fake.map_error = -ENOMEM;
	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, page_pages + 1), 0);
	fake.map_error = 0;
	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, 1), 0);
	assert_ptr_equal(buffer.memory, memory);
	assert_int_equal(buffer.bytes, 2 * buffer_page_bytes());
	assert_int_equal(fake.maps_live, 1);
}

static void a_failed_reserve_keeps_the_old_buffer(void **state)
{
	const uint64_t page_pages = (uint64_t)buffer_page_bytes() * 8;
	const void *memory;

	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, page_pages), 0);
	memory = buffer.memory;
	fake.map_error = -ENOMEM;
	assert_int_equal(dli_bitmap_reserve(&buffer, &fake.os, page_pages + 1), -ENOMEM);
	assert_ptr_equal(buffer.memory, memory);
	assert_int_equal(buffer.bytes, buffer_page_bytes());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		bitmap_test(bits_are_rounded_up_to_words),
		bitmap_test(get_names_the_slot_and_reads_little_endian),
		bitmap_test(clear_names_its_pages_and_writes_little_endian),
		bitmap_test(failures_are_returned),
		bitmap_test(the_buffer_is_resident),
		bitmap_test(every_bitmap_ends_at_the_guard_page),
		bitmap_test(a_buffer_without_its_guard_is_an_error),
		bitmap_test(a_table_without_mprotect_has_no_guard),
		bitmap_test(the_buffer_grows_and_never_shrinks),
		bitmap_test(a_failed_reserve_keeps_the_old_buffer),
	};

	return RUN_TESTS("bitmap", tests);
}
