/* SPDX-License-Identifier: MIT */
#include "fake_os.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_GUARDED = 64 };

/* Guarded mappings. begin and bytes include the padding and the inaccessible page. */
static struct {
	void *addr, *begin;
	size_t bytes;
} guarded[MAX_GUARDED];

static int fake_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct fake_os *fake = opaque;

	fake->ioctls++;
	return fake->ioctl ? fake->ioctl(fake, fd, request, arg) : -ENOTTY;
}

static int map_guarded(size_t bytes, void **addr)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	size_t room = (bytes + page_bytes - 1) / page_bytes * page_bytes;
	char *begin = mmap(NULL, room + page_bytes, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int i = 0;

	if (begin == MAP_FAILED || mprotect(begin + room, page_bytes, PROT_NONE))
		return -ENOMEM;
	while (guarded[i].addr)
		if (++i == MAX_GUARDED)
			return -ENOMEM;
	*addr = begin + room - bytes;
	guarded[i].addr = *addr;
	guarded[i].begin = begin;
	guarded[i].bytes = room + page_bytes;
	return 0;
}

static bool unmap_guarded(void *addr)
{
	for (int i = 0; i < MAX_GUARDED; i++) {
		if (guarded[i].addr != addr)
			continue;
		munmap(guarded[i].begin, guarded[i].bytes);
		guarded[i].addr = NULL;
		return true;
	}
	return false;
}

static int map_anonymous(size_t bytes, int prot, int flags, void **addr)
{
	void *p = mmap(NULL, bytes, prot, flags, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	*addr = p;
	return 0;
}

static int fake_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot, int flags,
		     void **addr)
{
	struct fake_os *fake = opaque;
	int r = -EBADF;

	if (fake->map_error && !fake->maps_that_succeed--)
		return fake->map_error;
	if (fd != -1)
		r = fake->map ? fake->map(fake, fd, offset_bytes, bytes, addr) : -EBADF;
	else
		r = fake->guarded ? map_guarded(bytes, addr)
				  : map_anonymous(bytes, prot, flags, addr);
	if (!r)
		fake->maps_live++;
	return r;
}

static int fake_munmap(void *opaque, void *addr, size_t bytes)
{
	struct fake_os *fake = opaque;

	fake->maps_live--;
	if (fake->unmap && fake->unmap(fake, addr))
		return 0;
	if (!unmap_guarded(addr))
		munmap(addr, bytes);
	return 0;
}

static int fake_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	struct fake_os *fake = opaque;

	fake->masks++;
	return 0;
}

static int fake_dup(void *opaque, int fd)
{
	struct fake_os *fake = opaque;

	if (fake->dup_result)
		return fake->dup_result;
	fake->duplicates++;
	return FAKE_DUPLICATE_FD;
}

static int fake_close(void *opaque, int fd)
{
	struct fake_os *fake = opaque;

	if (fd == FAKE_TIMER_FD)
		fake->timers--;
	else if (fd == FAKE_DUPLICATE_FD)
		fake->duplicates--;
	else
		return -EBADF;
	return 0;
}

static int fake_mprotect(void *opaque, void *addr, size_t bytes, int prot)
{
	return mprotect(addr, bytes, prot) ? -errno : 0;
}

static uint64_t fake_now_ns(void *opaque)
{
	const struct fake_os *fake = opaque;

	return fake->now_ns;
}

static int fake_timer(void *opaque)
{
	struct fake_os *fake = opaque;

	if (fake->timer_result)
		return fake->timer_result;
	fake->timers++;
	return FAKE_TIMER_FD;
}

static int fake_timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	struct fake_os *fake = opaque;

	if (fd != FAKE_TIMER_FD)
		return -EBADF;
	fake->timer_sets++;
	fake->timer_ns = from_now_ns;
	return fake->timer_set_result;
}

void fake_os_init(struct fake_os *fake)
{
	*fake = (struct fake_os){
		.os = { .size = sizeof(fake->os),
			.page_bytes = 4096,
			.arch = DL_OS_ARCH_RING_ALONE_SAFE,
			.opaque = fake,
			.ioctl = fake_ioctl,
			.mmap = fake_mmap,
			.munmap = fake_munmap,
			.signal_mask = fake_signal_mask,
			.dup = fake_dup,
			.close = fake_close,
			.mprotect = fake_mprotect,
			.timer = fake_timer,
			.timer_set = fake_timer_set,
			.now_ns = fake_now_ns },
		.now_ns = 1000000000,
	};
}

uint64_t resident_bytes(void)
{
	unsigned long long size_pages, resident_pages = 0;
	FILE *statm = fopen("/proc/self/statm", "re");

	if (!statm)
		return 0;
	if (fscanf(statm, "%llu %llu", &size_pages, &resident_pages) != 2)
		resident_pages = 0;
	fclose(statm);
	return resident_pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
