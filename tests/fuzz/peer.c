/* SPDX-License-Identifier: MIT */
#include "peer.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Ample for all fixed allocations, of the model kernel and of the program. */
#define OTHER_BYTES (UINT64_C(8) << 20)
#define HUGE_BYTES  (UINT64_C(2) << 20)
/* A program that has read this much would read from a pointless peer for ever. */
#define ENDLESS_BYTES (UINT64_C(64) << 20)

ssize_t __real_recv(int fd, void *to, size_t bytes, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __real_close(int fd);
void *__real_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *addr, size_t bytes);
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);

ssize_t __wrap_recv(int fd, void *to, size_t bytes, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_close(int fd);
void *__wrap_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *addr, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);

struct peer peer;

/* The guest's memory, between inaccessible pages. */
static struct {
	char *room, *memory;
	size_t room_bytes;
} guarded;

/* True if this call is to fail with EINTR or EAGAIN. */
static bool fails_now(void)
{
	static unsigned int calls;

	if (!(peer.flaws & 3) || calls++ % (2 + (peer.flaws >> 2 & 3)))
		return false;
	errno = peer.flaws & 1 ? EINTR : EAGAIN;
	return true;
}

static ssize_t at_end(void)
{
	switch (peer.end) {
	case PEER_RESETS:
		errno = ECONNRESET;
		return -1;
	case PEER_FALLS_SILENT:
		errno = EAGAIN;
		return -1;
	default:
		return 0;
	}
}

ssize_t __wrap_recv(int fd, void *to, size_t bytes, int flags)
{
	if (fd != PEER_FD)
		return __real_recv(fd, to, bytes, flags);
	if (fails_now())
		return -1;
	if (peer.at == peer.bytes && peer.end == PEER_REPEATS && peer.bytes)
		peer.at = 0;
	if (peer.at == peer.bytes)
		return at_end();
	if (bytes > peer.bytes - peer.at)
		bytes = peer.bytes - peer.at;
	if (bytes > peer.chunk_bytes)
		bytes = peer.chunk_bytes;
	memcpy(to, peer.stream + peer.at, bytes);
	peer.at += bytes;
	peer.repeated_bytes += bytes;
	expect(peer.repeated_bytes < ENDLESS_BYTES, "it reads from the peer for ever");
	return (ssize_t)bytes;
}

static size_t take(const void *from, size_t bytes)
{
	if (bytes > peer.chunk_bytes)
		bytes = peer.chunk_bytes;
	if (bytes > SENT_BYTES - peer.sent_bytes)
		bytes = SENT_BYTES - peer.sent_bytes;
	if (bytes)
		memcpy(peer.sent + peer.sent_bytes, from, bytes);
	peer.sent_bytes += bytes;
	return bytes;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	size_t taken = 0;

	if (fd != PEER_FD)
		return __real_sendmsg(fd, message, flags);
	expect(flags & MSG_NOSIGNAL, "SIGPIPE would kill it when the peer closes");
	if (fails_now())
		return -1;
	if (peer.sent_bytes >= peer.gone_after_bytes || peer.sent_bytes == SENT_BYTES) {
		errno = peer.flaws & 16 ? ECONNRESET : EPIPE;
		return -1;
	}
	for (size_t i = 0; i < message->msg_iovlen; i++) {
		const struct iovec *part = &message->msg_iov[i];
		size_t n = take(part->iov_base, part->iov_len);

		taken += n;
		if (n < part->iov_len)
			break;
	}
	return (ssize_t)taken;
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	if (count != 1 || fds->fd != PEER_FD)
		return __real_poll(fds, count, timeout_ms);
	expect(timeout_ms >= 0, "poll() without a timeout");
	if (fds->events & POLLIN && peer.at == peer.bytes && peer.end == PEER_FALLS_SILENT) {
		peer.passed_ns += (uint64_t)timeout_ms * 1000000;
		return 0;
	}
	fds->revents = fds->events;
	return 1;
}

/* Adds the time that poll() has skipped. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int r = __real_clock_gettime(clock, now);
	uint64_t ns = (uint64_t)now->tv_nsec + peer.passed_ns;

	now->tv_sec += (time_t)(ns / 1000000000);
	now->tv_nsec = (long)(ns % 1000000000);
	return r;
}

int __wrap_close(int fd)
{
	return fd == PEER_FD ? 0 : __real_close(fd);
}

/* The result is aligned, so a caller that aligns inside the mapping begins at its start. */
static void *map_guarded(size_t bytes)
{
	size_t room_bytes = bytes + 2 * HUGE_BYTES;
	char *room = __real_mmap(NULL, room_bytes, PROT_NONE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED)
		return room;
	guarded.room = room;
	peer.guests++;
	guarded.room_bytes = room_bytes;
	guarded.memory =
		(char *)(((uintptr_t)room + 2 * HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
	expect(!mprotect(guarded.memory, bytes - HUGE_BYTES, PROT_READ | PROT_WRITE), "mprotect");
	return guarded.memory;
}

void *__wrap_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	bool is_guest = flags & MAP_NORESERVE && bytes > 8 * HUGE_BYTES && !guarded.room;

	if (flags & MAP_ANONYMOUS)
		peer.mapped_bytes += bytes;
	expect(peer.mapped_bytes <= MEMORY_LIMIT_BYTES + HUGE_BYTES + OTHER_BYTES,
	       "%llu bytes are mapped", (unsigned long long)peer.mapped_bytes);
	return is_guest ? map_guarded(bytes) : __real_mmap(addr, bytes, prot, flags, fd, offset);
}

/* The name of mmap() with 64-bit file offsets. */
void *__wrap_mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	return __wrap_mmap(addr, bytes, prot, flags, fd, offset);
}

int __wrap_munmap(void *addr, size_t bytes)
{
	int r;

	if (!guarded.room || addr != guarded.memory)
		return __real_munmap(addr, bytes);
	r = __real_munmap(guarded.room, guarded.room_bytes);
	guarded.room = NULL;
	return r;
}

static void count_allocated(size_t bytes)
{
	uint64_t all = __atomic_add_fetch(&peer.allocated_bytes, bytes, __ATOMIC_RELAXED);

	expect(all <= OTHER_BYTES, "%llu bytes are allocated", (unsigned long long)all);
}

void *__wrap_malloc(size_t bytes)
{
	count_allocated(bytes);
	return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	count_allocated(count * bytes);
	return __real_calloc(count, bytes);
}
