/* SPDX-License-Identifier: MIT */
/* The system's own dl_os table: its results, and that it leaves errno alone. */
#include "cmocka_all.h"
#include "kvm/os.h"
#include "kvm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct dl_os *os;

static int setup(void **state)
{
	os = dli_os_or_system(NULL);
	errno = EXDEV;
	return 0;
}

/* No call may change errno. */
static int teardown(void **state)
{
	return errno == EXDEV ? 0 : -1;
}

#define os_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void null_selects_the_system(void **state)
{
	struct dl_os other = *os;

	assert_true(dli_os_valid(os));
	assert_ptr_equal(os, dl_os_system());
	assert_ptr_equal(dli_os_or_system(&other), &other);
}

static void a_failed_ioctl_is_a_negative_errno_value(void **state)
{
	int bytes = -1;

	assert_int_equal(dli_os_ioctl(os, -1, FIONREAD, &bytes), -EBADF);
	assert_int_equal(dli_os_ioctl_value(os, -1, FIONREAD, 0), -EBADF);
}

static void an_ioctl_receives_its_argument(void **state)
{
	int ends[2], bytes = -1, before;

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(write(ends[1], "four", 4), 4);
	before = errno;
	assert_int_equal(dli_os_ioctl(os, ends[0], FIONREAD, &bytes), 0);
	assert_int_equal(errno, before);
	assert_int_equal(bytes, 4);
	close(ends[0]);
	close(ends[1]);
	errno = EXDEV;
}

/* ThreadSanitizer leaves a program few TiB of addresses, in which there may be no such gap. */
#ifdef __SANITIZE_THREAD__
static const size_t reserved_bytes = (size_t)1 << 36;
#else
static const size_t reserved_bytes = (size_t)1 << 40;
#endif

static void reserved_memory_is_zero_and_allocated_on_access(void **state)
{
	const size_t bytes = reserved_bytes;
	unsigned char *memory = NULL;

	assert_int_equal(dli_os_reserve(os, bytes, (void **)&memory), 0);
	assert_int_equal(memory[0] | memory[bytes / 2] | memory[bytes - 1], 0);
	memory[bytes - 1] = 1;
	dli_os_unmap(os, memory, bytes);
	dli_os_unmap(os, NULL, bytes);
}

static void a_failed_mapping_is_an_error(void **state)
{
	void *memory = NULL;

	assert_int_equal(dli_os_map(os, -1, 0, 4096, PROT_READ, &memory), -EBADF);
	assert_int_equal(dli_os_reserve(os, SIZE_MAX / 2, &memory), -ENOMEM);
	assert_null(memory);
}

static void a_file_is_mapped_shared(void **state)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	int fd = memfd_create("os", MFD_CLOEXEC);
	char *first, *second;

	assert_int_equal(ftruncate(fd, (off_t)(2 * page_bytes)), 0);
	assert_int_equal(
		dli_os_map(os, fd, page_bytes, page_bytes, PROT_READ | PROT_WRITE, (void **)&first),
		0);
	assert_int_equal(dli_os_map(os, fd, 0, 2 * page_bytes, PROT_READ, (void **)&second), 0);
	first[1] = 'x';
	assert_int_equal(second[page_bytes + 1], 'x');
	dli_os_unmap(os, first, page_bytes);
	dli_os_unmap(os, second, 2 * page_bytes);
	close(fd);
}

static void a_duplicate_refers_to_the_same_file(void **state)
{
	int ends[2], fd;

	assert_int_equal(pipe(ends), 0);
	fd = dli_os_dup(os, ends[1]);
	assert_true(fd > ends[1]);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(ends[1]);
	assert_int_equal(write(fd, "x", 1), 1);
	dli_os_close(os, fd);
	assert_int_equal(dli_os_dup(os, fd), -EBADF);
	close(ends[0]);
}

static void a_duplicate_never_becomes_a_standard_stream(void **state)
{
	int before = errno, saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100), fd;

	close(STDERR_FILENO);
	fd = dli_os_dup(os, saved);
	dup2(saved, STDERR_FILENO);
	close(saved);
	errno = before;
	assert_true(fd > STDERR_FILENO);
	dli_os_close(os, fd);
}

/* Returns fd only if the pending cancellation does not act in the close. */
static void *close_while_cancelled(void *fd)
{
	int unused;

	pthread_cancel(pthread_self());
	dli_os_close(os, *(int *)fd);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &unused);
	return fd;
}

static void a_close_is_not_a_cancellation_point(void **state)
{
	int fd = dli_os_dup(os, STDERR_FILENO), before = errno;
	pthread_t thread;
	void *result = NULL;

	assert_int_equal(pthread_create(&thread, NULL, close_while_cancelled, &fd), 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	errno = before;
	assert_ptr_equal(result, &fd);
}

/* The teardown checks errno. */
static void failures_are_returned_and_leave_errno(void **state)
{
	sigset_t set;

	sigemptyset(&set);
	assert_int_equal(os->munmap(os->opaque, (void *)1, 1), -EINVAL);
	assert_int_equal(os->close(os->opaque, -1), -EBADF);
	assert_int_equal(os->dup(os->opaque, -1), -EBADF);
	assert_int_equal(os->madvise(os->opaque, (void *)1, 1, MADV_NORMAL), -EINVAL);
	assert_int_equal(os->mprotect(os->opaque, (void *)1, 1, PROT_NONE), -EINVAL);
	assert_int_equal(os->timer_set(os->opaque, -1, 1), -EBADF);
	assert_int_equal(os->signal_mask(os->opaque, 99, &set, NULL), -EINVAL);
}

/* The kernel's mask; the C library hides its own two signals from its callers. */
static uint64_t blocked_signals(void)
{
	uint64_t mask = 0;

	assert_int_equal(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof(mask)), 0);
	return mask;
}

static uint64_t bit_of(int signal)
{
	return UINT64_C(1) << (signal - 1);
}

static void every_signal_is_blocked_and_the_mask_restored(void **state)
{
	const uint64_t never_blocked = bit_of(SIGKILL) | bit_of(SIGSTOP);
	sigset_t one, before;

	sigemptyset(&one);
	sigaddset(&one, SIGWINCH);
	pthread_sigmask(SIG_SETMASK, &one, NULL);
	assert_int_equal(dli_os_block_signals(os, &before), 0);
	assert_int_equal(blocked_signals(), ~never_blocked);
	dli_os_restore_signals(os, &before);
	assert_int_equal(blocked_signals(), bit_of(SIGWINCH));
}

/* A fault of the program, and the C library's own, must get through. */
static void asynchronous_signals_are_blocked_and_no_others(void **state)
{
	const uint64_t let_in = bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGILL) | bit_of(SIGFPE) |
				bit_of(SIGTRAP) | bit_of(SIGSYS) | bit_of(32) | bit_of(33) |
				bit_of(SIGKILL) | bit_of(SIGSTOP);
	sigset_t none, before;

	sigemptyset(&none);
	pthread_sigmask(SIG_SETMASK, &none, NULL);
	assert_int_equal(dli_os_block_async_signals(os, &before), 0);
	assert_int_equal(blocked_signals(), ~let_in);
	dli_os_restore_signals(os, &before);
	assert_int_equal(blocked_signals(), 0);
}

static int dup_to_standard_input(void *opaque, int fd)
{
	return 0;
}

static void a_duplicate_may_have_any_number(void **state)
{
	struct dl_os other = *os;
	struct dli_vm vm = { .fd = -1 };

	other.dup = dup_to_standard_input;
	assert_int_equal(dli_vm_open(&vm, &other, 7), 0);
	assert_ptr_equal(vm.os, &other);
	assert_int_equal(vm.fd, 0);
	assert_true(vm.own_fd);
}

static void the_clock_is_the_monotonic_one(void **state)
{
	struct timespec before, after;
	uint64_t now_ns;

	clock_gettime(CLOCK_MONOTONIC, &before);
	now_ns = dli_os_now_ns(os);
	clock_gettime(CLOCK_MONOTONIC, &after);
	assert_true(now_ns >= (uint64_t)before.tv_sec * 1000000000 + (uint64_t)before.tv_nsec);
	assert_true(now_ns <= (uint64_t)after.tv_sec * 1000000000 + (uint64_t)after.tv_nsec);
}

static uint64_t thirty_later(void *opaque)
{
	return *(uint64_t *)opaque + 30;
}

static void a_table_may_have_a_clock_of_its_own(void **state)
{
	struct dl_os table = *os;
	uint64_t begin_ns = 60;

	table.opaque = &begin_ns;
	table.now_ns = thirty_later;
	assert_int_equal(dli_os_now_ns(&table), 90);
	table.now_ns = NULL;
	assert_true(dli_os_now_ns(&table) >= 1000);
	assert_true(dli_os_now_ns(&table) <= dli_os_now_ns(os));
}

static bool is_readable(int fd, int timeout_ms)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	int r = poll(&poll_fd, 1, timeout_ms);

	assert_in_range(r, 0, 1);
	return r;
}

static void a_timer_is_readable_from_its_expiration_on(void **state)
{
	uint64_t begin_ns = dli_os_now_ns(os);
	int timer = dli_os_timer(os);

	assert_true(timer > STDERR_FILENO);
	assert_int_equal(fcntl(timer, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(timer, F_GETFL) & O_NONBLOCK);
	assert_false(is_readable(timer, 0));
	assert_int_equal(dli_os_timer_set(os, timer, 3000000), 0);
	assert_true(is_readable(timer, -1));
	assert_true(dli_os_now_ns(os) - begin_ns >= 3000000);
	/* Setting takes back the expiration that nobody read. */
	assert_int_equal(dli_os_timer_set(os, timer, UINT64_MAX), 0);
	assert_false(is_readable(timer, 0));
	assert_int_equal(dli_os_timer_set(os, timer, 1), 0);
	assert_true(is_readable(timer, -1));
	assert_int_equal(dli_os_timer_set(os, timer, 0), 0);
	assert_false(is_readable(timer, 0));
	dli_os_close(os, timer);
	assert_int_equal(fcntl(timer, F_GETFD), -1);
	assert_int_equal(errno, EBADF);
	errno = EXDEV;
}

static void a_timer_never_becomes_a_standard_stream(void **state)
{
	int saved = dup(STDIN_FILENO), timer;

	close(STDIN_FILENO);
	errno = EXDEV;
	timer = dli_os_timer(os);
	assert_true(timer > STDERR_FILENO);
	assert_int_equal(fcntl(timer, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(STDIN_FILENO, F_GETFD), -1);
	dup2(saved, STDIN_FILENO);
	close(saved);
	dli_os_close(os, timer);
	errno = EXDEV;
}

static int interrupted_timer(void *opaque)
{
	return -EINTR;
}

static int busy_timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	return -EAGAIN;
}

static void a_table_without_timers_has_none(void **state)
{
	struct dl_os table = *os;

	table.timer = NULL;
	assert_true(dli_os_valid(&table));
	assert_int_equal(dli_os_timer(&table), -EOPNOTSUPP);
	table = *os;
	table.timer_set = NULL;
	assert_int_equal(dli_os_timer(&table), -EOPNOTSUPP);
	table = *os;
	table.close = NULL;
	assert_int_equal(dli_os_timer(&table), -EOPNOTSUPP);
	table.close = os->close;
	table.timer = interrupted_timer;
	table.timer_set = busy_timer_set;
	assert_int_equal(dli_os_timer(&table), -EIO);
	assert_int_equal(dli_os_timer_set(&table, 0, 1), -EIO);
}

static void the_page_size_defaults_to_the_systems(void **state)
{
	struct dl_os table = *os;

	assert_int_equal(dli_os_page_bytes(os), sysconf(_SC_PAGESIZE));
	table.page_bytes = 65536;
	assert_int_equal(dli_os_page_bytes(&table), 65536);
}

static void the_architecture_can_be_overridden(void **state)
{
	struct dl_os table = *os;

	table.arch = DL_OS_ARCH_RING_ALONE_SAFE;
	assert_true(dli_os_ring_alone_safe(&table));
	table.arch = DL_OS_ARCH_RING_NEEDS_BACKUP;
	assert_false(dli_os_ring_alone_safe(&table));
#if defined(__x86_64__)
	assert_true(dli_os_ring_alone_safe(os));
#elif defined(__aarch64__) || defined(__riscv)
	assert_false(dli_os_ring_alone_safe(os));
#endif
}

static void an_invalid_table_is_refused(void **state)
{
	static const uint32_t bad_pages[] = { 1, 2048, 4095, 4097, 12288 };
	struct dl_os table = *os;

	table.size--;
	assert_false(dli_os_valid(&table));
	table = *os;
	table.reserved = 1;
	assert_false(dli_os_valid(&table));
	table = *os;
	table.arch = 3;
	assert_false(dli_os_valid(&table));
	for (size_t i = 0; i < sizeof(bad_pages) / sizeof(bad_pages[0]); i++) {
		table = *os;
		table.page_bytes = bad_pages[i];
		assert_false(dli_os_valid(&table));
	}
	table = *os;
	table.ioctl = NULL;
	assert_false(dli_os_valid(&table));
	table = *os;
	table.mmap = NULL;
	assert_false(dli_os_valid(&table));
	table = *os;
	table.munmap = NULL;
	assert_false(dli_os_valid(&table));
	table = *os;
	table.signal_mask = NULL;
	assert_false(dli_os_valid(&table));
}

static int positive_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	return ENOMEM;
}

static int positive_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
			 int flags, void **addr)
{
	return ENOMEM;
}

static int positive_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	return EPERM;
}

static int positive_change(void *opaque, void *addr, size_t bytes, int what)
{
	return EINVAL;
}

static int positive_timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	return EINVAL;
}

/* A table that does not negate errno: no failure of it may look like success. */
static void a_positive_result_is_an_error_where_there_is_no_count(void **state)
{
	const struct dl_os table = {
		.ioctl = positive_ioctl,
		.mmap = positive_mmap,
		.signal_mask = positive_signal_mask,
		.madvise = positive_change,
		.mprotect = positive_change,
		.timer_set = positive_timer_set,
	};
	sigset_t before;
	void *memory;

	assert_int_equal(dli_os_ioctl(&table, 0, 0, NULL), -EIO);
	assert_int_equal(dli_os_ioctl_once(&table, 0, 0, NULL), -EIO);
	assert_int_equal(dli_os_map(&table, 0, 0, 1, 0, &memory), -EIO);
	assert_int_equal(dli_os_reserve(&table, 1, &memory), -EIO);
	assert_int_equal(dli_os_advise(&table, NULL, 1, 0), -EIO);
	assert_int_equal(dli_os_forbid(&table, NULL, 1), -EIO);
	assert_int_equal(dli_os_block_signals(&table, &before), -EIO);
	assert_int_equal(dli_os_block_async_signals(&table, &before), -EIO);
	assert_int_equal(dli_os_timer_set(&table, 0, 1), -EIO);
	/* Capabilities and resets return numbers. */
	assert_int_equal(dli_os_ioctl_value(&table, 0, 0, 0), ENOMEM);
	assert_int_equal(dli_os_ioctl_value_once(&table, 0, 0, 0), ENOMEM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		os_test(null_selects_the_system),
		os_test(a_failed_ioctl_is_a_negative_errno_value),
		os_test(an_ioctl_receives_its_argument),
		os_test(reserved_memory_is_zero_and_allocated_on_access),
		os_test(a_failed_mapping_is_an_error),
		os_test(a_file_is_mapped_shared),
		os_test(a_duplicate_refers_to_the_same_file),
		os_test(a_duplicate_never_becomes_a_standard_stream),
		os_test(a_close_is_not_a_cancellation_point),
		os_test(failures_are_returned_and_leave_errno),
		os_test(every_signal_is_blocked_and_the_mask_restored),
		os_test(asynchronous_signals_are_blocked_and_no_others),
		os_test(a_duplicate_may_have_any_number),
		os_test(the_clock_is_the_monotonic_one),
		os_test(a_table_may_have_a_clock_of_its_own),
		os_test(a_timer_is_readable_from_its_expiration_on),
		os_test(a_timer_never_becomes_a_standard_stream),
		os_test(a_table_without_timers_has_none),
		os_test(the_page_size_defaults_to_the_systems),
		os_test(the_architecture_can_be_overridden),
		os_test(an_invalid_table_is_refused),
		os_test(a_positive_result_is_an_error_where_there_is_no_count),
	};

	return RUN_TESTS("os", tests);
}
