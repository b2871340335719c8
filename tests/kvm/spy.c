/* SPDX-License-Identifier: MIT */
#include "spy.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int spy_ioctl(int fd, unsigned long request, void *arg)
{
	int saved = errno;
	int r = ioctl(fd, request, arg);

	if (r < 0)
		r = -errno;
	errno = saved;
	return r;
}

static void count(struct spy *spy, unsigned long request)
{
	switch (request) {
	case KVM_RESET_DIRTY_RINGS:
		atomic_fetch_add(&spy->resets, 1);
		break;
	case KVM_GET_DIRTY_LOG:
		atomic_fetch_add(&spy->gets, 1);
		break;
	case KVM_CLEAR_DIRTY_LOG:
		atomic_fetch_add(&spy->clears, 1);
		break;
	case KVM_SET_USER_MEMORY_REGION:
		atomic_fetch_add(&spy->regions, 1);
		break;
	case KVM_ENABLE_CAP:
		atomic_fetch_add(&spy->enables, 1);
		break;
	}
}

static bool pretend(const struct spy *spy, unsigned long request, const void *arg, int *result)
{
	if (request != KVM_CHECK_EXTENSION)
		return false;
	for (unsigned int i = 0; i < spy->pretended_count; i++) {
		if ((uintptr_t)spy->pretended[i].capability == (uintptr_t)arg) {
			*result = spy->pretended[i].value;
			return true;
		}
	}
	return false;
}

static int counted_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct spy *spy = opaque;
	int result = 0;

	count(spy, request);
	if (pretend(spy, request, arg, &result))
		return result;
	if (spy->intercept && spy->intercept(spy, fd, request, arg, &result))
		return result;
	return spy_ioctl(fd, request, arg);
}

static void note_ring(struct spy *spy, void *cells, size_t bytes)
{
	unsigned int index = atomic_load(&spy->ring_count);

	if (index == SPY_RINGS)
		return;
	spy->rings[index].cells = cells;
	spy->rings[index].entries = (uint32_t)(bytes / sizeof(struct kvm_dirty_gfn));
	atomic_store(&spy->ring_count, index + 1);
}

static int noted_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		      int flags, void **addr)
{
	const uint64_t ring_offset_bytes = 64 * (uint64_t)getpagesize();
	struct spy *spy = opaque;
	int saved = errno;
	void *at = mmap(NULL, bytes, prot, flags, fd, (off_t)offset_bytes);
	int r = 0;

	if (at == MAP_FAILED)
		r = -errno;
	else
		*addr = at;
	errno = saved;
	if (!r && fd >= 0 && offset_bytes == ring_offset_bytes)
		note_ring(spy, at, bytes);
	return r;
}

void spy_init(struct spy *spy)
{
	memset(spy, 0, sizeof(*spy));
	spy->os = *dl_os_system();
	spy->os.opaque = spy;
	spy->os.ioctl = counted_ioctl;
	spy->os.mmap = noted_mmap;
}

void spy_pretend(struct spy *spy, int capability, int value)
{
	spy->pretended[spy->pretended_count].capability = capability;
	spy->pretended[spy->pretended_count].value = value;
	spy->pretended_count++;
}

static bool fail_once(struct spy *spy, int fd, unsigned long request, void *arg, int *result)
{
	(void)fd;
	(void)arg;
	if (request != spy->failing_request || atomic_exchange(&spy->failed, true))
		return false;
	*result = spy->failing_error;
	return true;
}

void spy_fail_once(struct spy *spy, unsigned long request, int error)
{
	spy->failing_request = request;
	spy->failing_error = error;
	atomic_store(&spy->failed, false);
	spy->intercept = fail_once;
}
