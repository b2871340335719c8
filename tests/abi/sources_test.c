/* SPDX-License-Identifier: MIT */
/* Runs the programs of doc/sources.md unchanged, with devices whose ioctls are played here. */
#include "model.h"
#include "sources.h"

#include <errno.h>
#include <linux/vfio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>
#ifdef __has_include
#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#endif
#endif

enum {
	PAGE_BYTES = 4096,
	PAGES = 200,
	WORDS = 8,
	DEVICE_FD = 1234,
	CONTAINER_FD = 1235,
	FIRST_PAGE = 100
};

#define GPA   ((uint64_t)FIRST_PAGE * PAGE_BYTES)
#define BYTES ((uint64_t)PAGES * PAGE_BYTES)
#define IOVA  UINT64_C(0x40000000)

static struct model *model;
static struct dl_log *dirty_log;
static struct dl_cursor *cursor;
static uint64_t at[WORDS];
static const struct words words = { at, WORDS };

/* The device: what it knows, and which of its pages are dirty. */
static struct {
	bool logs, fails;
	uint64_t base, features, ring_flags, ring_log, ranges, page_bytes;
	uint64_t dirty; /* bit i: page i of the range */
} device;

int __wrap_ioctl(int fd, unsigned long request, ...);

static void report(uint64_t *to, uint64_t iova, uint64_t bytes, uint64_t page_bytes)
{
	assert_true(device.logs);
	assert_int_equal(iova, IOVA);
	assert_int_equal(bytes, BYTES);
	device.page_bytes = page_bytes;
	to[0] |= device.dirty;
	device.dirty = 0;
}

static void vfio_feature(const struct vfio_device_feature *feature)
{
#ifdef VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
	struct vfio_device_feature_dma_logging_control control;
	struct vfio_device_feature_dma_logging_report get;

	if (feature->flags == (VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START)) {
		assert_int_equal(feature->argsz, sizeof(*feature) + sizeof(control));
		memcpy(&control, feature->data, sizeof(control));
		device.logs = true;
		device.ranges = control.num_ranges;
		return;
	}
	assert_int_equal(feature->flags,
			 VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT);
	assert_int_equal(feature->argsz, sizeof(*feature) + sizeof(get));
	memcpy(&get, feature->data, sizeof(get));
	report((uint64_t *)(uintptr_t)get.bitmap, get.iova, get.length, get.page_size);
#endif
}

static void type1_dirty_pages(const struct vfio_iommu_type1_dirty_bitmap *dirty)
{
	struct vfio_iommu_type1_dirty_bitmap_get get;

	if (dirty->flags == VFIO_IOMMU_DIRTY_PAGES_FLAG_START) {
		device.logs = true;
		return;
	}
	assert_int_equal(dirty->flags, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP);
	assert_int_equal(dirty->argsz, sizeof(*dirty) + sizeof(get));
	memcpy(&get, dirty->data, sizeof(get));
	assert_int_equal(get.bitmap.size, sizeof(at));
	report((uint64_t *)get.bitmap.data, get.iova, get.size, get.bitmap.pgsize);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	void *arg;

	va_start(arguments, request);
	arg = va_arg(arguments, void *);
	va_end(arguments);
	assert_true(fd == DEVICE_FD || fd == CONTAINER_FD);
	if (device.fails) {
		errno = EIO;
		return -1;
	}
	if (request == VHOST_SET_LOG_BASE) {
		device.base = *(uint64_t *)arg;
	} else if (request == VHOST_SET_FEATURES) {
		device.features = *(uint64_t *)arg;
	} else if (request == VHOST_SET_VRING_ADDR) {
		device.ring_flags = ((struct vhost_vring_addr *)arg)->flags;
		device.ring_log = ((struct vhost_vring_addr *)arg)->log_guest_addr;
	} else if (request == VFIO_DEVICE_FEATURE && fd == DEVICE_FD) {
		vfio_feature(arg);
	} else if (request == VFIO_IOMMU_DIRTY_PAGES && fd == CONTAINER_FD) {
		type1_dirty_pages(arg); /* the number is the same */
#ifdef IOMMU_HWPT_GET_DIRTY_BITMAP
	} else if (request == IOMMU_HWPT_SET_DIRTY_TRACKING) {
		device.logs = ((struct iommu_hwpt_set_dirty_tracking *)arg)->flags & 1;
	} else if (request == IOMMU_HWPT_GET_DIRTY_BITMAP) {
		const struct iommu_hwpt_get_dirty_bitmap *get = arg;

		report((uint64_t *)(uintptr_t)get->data, get->iova, get->length, get->page_size);
#endif
	} else {
		fail_msg("ioctl %#lx", request);
	}
	return 0;
}

static int start(void **state)
{
	const struct dl_cursor_options clean = { .size = sizeof(clean), .flags = DL_CURSOR_CLEAN };
	struct dl_slot slot = { .size = sizeof(slot), .gpa = GPA, .bytes = BYTES };
	const struct model_options kernel = { 0 };
	void *memory =
		mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct dl_options options = { .size = sizeof(options) };
	char why[200];

	(void)state;
	assert_true(memory != MAP_FAILED);
	memset(&device, 0, sizeof(device));
	memset(at, 0, sizeof(at));
	model = model_new(&kernel);
	options.os = model_os(model);
	slot.hva = (uintptr_t)memory;
	assert_int_equal(
		dl_log_open(model_vm_create(model), &options, &dirty_log, why, sizeof(why)), 0);
	assert_int_equal(dl_slot_set(dirty_log, &slot), 0);
	assert_int_equal(dl_cursor_new(dirty_log, &clean, &cursor), 0);
	return 0;
}

static int stop(void **state)
{
	(void)state;
	dl_cursor_free(cursor);
	dl_log_close(dirty_log);
	model_free(model);
	return 0;
}

/* Bit i of the result: page i of the slot is pending. */
static uint64_t pending(void)
{
	uint64_t pages[(PAGES + 63) / 64] = { 0 };

	assert_int_equal(dl_cursor_take(cursor, 0, 0, pages, (PAGES + 63) / 64, NULL), 0);
	return pages[0];
}

static void set_bit(uint64_t page)
{
	((uint8_t *)at)[page / 8] |= (uint8_t)(1u << page % 8);
}

static void vhost_is_started_and_taken(void **state)
{
	const struct vhost_vring_addr ring = { .index = 1, .used_user_addr = 77 };

	(void)state;
	assert_int_equal(vhost_start_log(DEVICE_FD, 1 << 5, &words), 0);
	assert_true(device.base == (uintptr_t)at);
	assert_true(device.features == (1 << 5 | UINT64_C(1) << VHOST_F_LOG_ALL));
	assert_int_equal(vhost_log_ring(DEVICE_FD, ring, 0x5000), 0);
	assert_int_equal(device.ring_flags, 1 << VHOST_VRING_F_LOG);
	assert_int_equal(device.ring_log, 0x5000);
	at[(FIRST_PAGE + 5) / 64] |= UINT64_C(1) << (FIRST_PAGE + 5) % 64;
	assert_int_equal(vhost_sync(dirty_log, 0, &words), 0);
	assert_int_equal(at[(FIRST_PAGE + 5) / 64], 0);
	assert_int_equal(pending(), 1 << 5);
	device.fails = true;
	assert_int_equal(vhost_start_log(DEVICE_FD, 0, &words), -EIO);
	assert_int_equal(vhost_log_ring(DEVICE_FD, ring, 0), -EIO);
}

static void a_vhost_user_log_is_an_array_of_bytes(void **state)
{
	(void)state;
	set_bit(FIRST_PAGE + 9);
	assert_int_equal(vhost_sync(dirty_log, DL_BITMAP_LE, &words), 0);
	assert_int_equal(pending(), 1 << 9);
	set_bit(1);
	assert_int_equal(vhost_sync(dirty_log, DL_BITMAP_LE, &words), -ENOENT);
}

#ifdef VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
int vfio_start_log(int device_fd, const struct vfio_device_feature_dma_logging_range *ranges,
		   uint32_t n, uint64_t page_bytes);
int vfio_sync(struct dl_log *log, int device_fd, uint64_t iova, uint64_t gpa, uint64_t bytes,
	      uint64_t page_bytes, const struct words *words);
#endif

static void a_vfio_device_reports(void **state)
{
	(void)state;
#ifdef VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
	const struct vfio_device_feature_dma_logging_range range = { .iova = IOVA,
								     .length = BYTES };

	assert_int_equal(vfio_start_log(DEVICE_FD, &range, 1, PAGE_BYTES), 0);
	assert_int_equal(device.ranges, 1);
	device.dirty = 1 << 3;
	at[0] = ~UINT64_C(0); /* of the report before */
	assert_int_equal(vfio_sync(dirty_log, DEVICE_FD, IOVA, GPA, BYTES, PAGE_BYTES, &words), 0);
	assert_int_equal(pending(), 1 << 3);
	device.fails = true;
	assert_int_equal(vfio_sync(dirty_log, DEVICE_FD, IOVA, GPA, BYTES, PAGE_BYTES, &words),
			 -EIO);
	assert_true(pending() == ~UINT64_C(0));
#else
	print_message("skip: linux/vfio.h here has no log of a device\n");
	skip();
#endif
}

static void a_type1_container_reports(void **state)
{
	(void)state;
	assert_int_equal(type1_start_log(CONTAINER_FD), 0);
	device.dirty = 1 << 4;
	at[0] = ~UINT64_C(0);
	assert_int_equal(type1_sync(dirty_log, CONTAINER_FD, IOVA, GPA, BYTES, PAGE_BYTES, &words),
			 0);
	assert_int_equal(pending(), 1 << 4);
	device.fails = true;
	assert_int_equal(type1_sync(dirty_log, CONTAINER_FD, IOVA, GPA, BYTES, PAGE_BYTES, &words),
			 -EIO);
	assert_true(pending() == ~UINT64_C(0));
}

#ifdef IOMMU_HWPT_GET_DIRTY_BITMAP
int iommufd_start_log(int iommufd, uint32_t hwpt_id);
int iommufd_sync(struct dl_log *log, int iommufd, uint32_t hwpt_id, uint64_t iova, uint64_t gpa,
		 uint64_t bytes, uint64_t page_bytes, const struct words *words);
#endif

static void an_iommufd_reports(void **state)
{
	(void)state;
#ifdef IOMMU_HWPT_GET_DIRTY_BITMAP
	assert_int_equal(iommufd_start_log(DEVICE_FD, 7), 0);
	device.dirty = 1 << 6;
	at[0] = ~UINT64_C(0);
	assert_int_equal(
		iommufd_sync(dirty_log, DEVICE_FD, 7, IOVA, GPA, BYTES, PAGE_BYTES, &words), 0);
	assert_int_equal(pending(), 1 << 6);
	device.fails = true;
	assert_int_equal(
		iommufd_sync(dirty_log, DEVICE_FD, 7, IOVA, GPA, BYTES, PAGE_BYTES, &words), -EIO);
	assert_true(pending() == ~UINT64_C(0));
#else
	print_message("skip: linux/iommufd.h here is missing, or has no dirty tracking\n");
	skip();
#endif
}

static void a_reply_of_libvfio_user_is_marked(void **state)
{
	(void)state;
	set_bit(2);
	assert_int_equal(vfio_user_sync(dirty_log, GPA, BYTES, 2 * PAGE_BYTES, &words), 0);
	assert_int_equal(pending(), 3 << 4);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(vhost_is_started_and_taken), TEST(a_vhost_user_log_is_an_array_of_bytes),
		TEST(a_vfio_device_reports),	  TEST(a_type1_container_reports),
		TEST(an_iommufd_reports),	  TEST(a_reply_of_libvfio_user_is_marked),
	};

	return cmocka_run_group_tests_name("doc/sources.md", tests, NULL, NULL);
}
