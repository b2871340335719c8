/* SPDX-License-Identifier: MIT */
/*
 * Harvests of a watched slot of one GiB, against the bare PAGEMAP_SCAN that each of them makes; and
 * what an audit adds. The kernel's userfaultfd is real, the rest of the kernel costs nothing.
 */
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include "../model/uffd_scan.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DIRTY = 10000, MARKS = 100000, REGIONS = 1024 };

#define PAGES (UINT64_C(1) << 18)
#define BYTES (PAGES * KERNEL_PAGE_BYTES)

static struct {
	struct kernel kernel;
	int (*kernel_ioctl)(void *opaque, int fd, unsigned long request, void *arg);
	int uffd, pagemap; /* of the other side */
	char *alias, *bare;
} scene;

static struct model_page_region regions[REGIONS];

static bool is_watchs(unsigned long request)
{
	return request == UFFDIO_API || request == UFFDIO_REGISTER ||
	       request == UFFDIO_UNREGISTER || request == MODEL_PAGEMAP_SCAN;
}

static int mixed_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	if (is_watchs(request))
		return dl_os_system()->ioctl(NULL, fd, request, arg);
	return scene.kernel_ioctl(opaque, fd, request, arg);
}

/* The bare scan: protects and forgets what it finds. */
static void scan(void *unused)
{
	uint64_t at = (uintptr_t)scene.bare, end = at + BYTES;

	(void)unused;
	while (at < end) {
		struct model_scan_arg arg = {
			.size = sizeof(arg),
			.flags = MODEL_SCAN_PROTECT | MODEL_SCAN_CHECK,
			.start = at,
			.end = end,
			.vec = (uintptr_t)regions,
			.vec_len = REGIONS,
			.category_mask = MODEL_PAGE_WRITTEN,
			.return_mask = MODEL_PAGE_WRITTEN,
		};

		bench_check(dl_os_system()->ioctl(NULL, scene.pagemap, MODEL_PAGEMAP_SCAN, &arg),
			    "PAGEMAP_SCAN");
		at = arg.walk_end;
	}
}

static char *map(int fd)
{
	char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (memory == MAP_FAILED)
		bench_die("mmap", errno);
	madvise(memory, BYTES, MADV_NOHUGEPAGE);
	for (uint64_t page = 0; page < PAGES; page++)
		memory[page * KERNEL_PAGE_BYTES] = 1;
	return memory;
}

/* False: this kernel has none of it. */
static bool open_bare(void)
{
	const struct dl_os *os = dl_os_system();
	struct uffdio_api api = { .api = UFFD_API, .features = MODEL_UFFD_FEATURES };

	scene.uffd = os->userfaultfd(NULL);
	scene.pagemap = os->pagemap(NULL);
	return scene.uffd >= 0 && scene.pagemap >= 0 &&
	       !os->ioctl(NULL, scene.uffd, UFFDIO_API, &api);
}

static void watch_bare(void)
{
	const struct dl_os *os = dl_os_system();
	struct uffdio_register range = { .range = { (uintptr_t)scene.bare, BYTES },
					 .mode = UFFDIO_REGISTER_MODE_WP };

	bench_check(os->ioctl(NULL, scene.uffd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
	scan(NULL);
}

static void open_scene(void)
{
	struct dl_os *os = &scene.kernel.os;
	int fd = memfd_create("bench", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)BYTES))
		bench_die("memfd_create", errno);
	scene.alias = map(fd);
	scene.bare = map(fd);
	close(fd);
	kernel_open(&scene.kernel, 1, 4096, PAGES);
	scene.kernel_ioctl = os->ioctl;
	os->ioctl = mixed_ioctl;
	os->userfaultfd = dl_os_system()->userfaultfd;
	os->pagemap = dl_os_system()->pagemap;
	os->close = dl_os_system()->close;
	watch_bare();
}

static void close_scene(void)
{
	kernel_close(&scene.kernel);
	close(scene.uffd);
	close(scene.pagemap);
	munmap(scene.alias, BYTES);
	munmap(scene.bare, BYTES);
}

static void watch(uint32_t flags)
{
	bench_check(dl_slot_watch(scene.kernel.log, 0, scene.alias, flags), "dl_slot_watch");
}

static void harvest(void *unused)
{
	(void)unused;
	kernel_harvest(&scene.kernel);
	bench_check(dl_cursor_end(scene.kernel.cursor, 0), "dl_cursor_end");
}

static void write_pages(char *memory)
{
	for (uint64_t i = 0; i < DIRTY; i++)
		memory[i * 7919 % PAGES * KERNEL_PAGE_BYTES]++;
}

static void dirty(void *unused)
{
	(void)unused;
	kernel_empty(&scene.kernel);
	write_pages(scene.alias);
}

static void dirty_bare(void *unused)
{
	(void)unused;
	write_pages(scene.bare);
}

static void empty(void *unused)
{
	(void)unused;
	kernel_empty(&scene.kernel);
}

static void mark_pages(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < MARKS; i++)
		bench_check(
			dl_mark_slot(scene.kernel.log, 0, i * 67u % 4096 * KERNEL_PAGE_BYTES, 1),
			"dl_mark_slot");
}

static void audit(void *unused)
{
	(void)unused;
	watch(DL_WATCH_AUDIT);
	empty(NULL);
}

static void no_audit(void *unused)
{
	(void)unused;
	watch(0);
	empty(NULL);
}

static void figures(void)
{
	static const struct bench_pair clean = {
		.name = "watch: a harvest, 1 GiB clean",
		.against = "the bare scan",
		.unit = "GiB",
		.units = 1,
		.is_floor = true,
		.prepare = empty,
		.measured = harvest,
		.other = scan,
	};
	static const struct bench_pair pages = {
		.name = "watch: a harvest, 10,000 pages of 1 GiB dirty",
		.against = "the bare scan",
		.unit = "page",
		.units = DIRTY,
		.is_floor = true,
		.prepare = dirty,
		.measured = harvest,
		.prepare_other = dirty_bare,
		.other = scan,
	};
	static const struct bench_pair marks = {
		.name = "watch: mark of one page, audited",
		.against = "not audited",
		.unit = "mark",
		.units = MARKS,
		.is_floor = true,
		.prepare = audit,
		.measured = mark_pages,
		.prepare_other = no_audit,
		.other = mark_pages,
	};
	struct bench_pair audited = clean;

	watch(0);
	bench_compare(&clean);
	bench_compare(&pages);
	bench_compare(&marks);
	watch(DL_WATCH_AUDIT);
	audited.name = "watch: a harvest, 1 GiB clean, audited";
	bench_compare(&audited);
}

void watch_figures(void)
{
	const char *name = "watch: a harvest, 1 GiB clean";

	if (!bench_wants("watch"))
		return;
	if (!open_bare()) {
		bench_skip(name, "no userfaultfd with WP_ASYNC here");
		return;
	}
	open_scene();
	figures();
	close_scene();
}
