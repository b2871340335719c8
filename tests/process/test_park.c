/* SPDX-License-Identifier: MIT */
/*
 * VMMs pause vCPUs by parking their threads in a signal handler. A thread that is parked so,
 * whatever call of the library the signal met, must not keep another thread's paused harvest
 * waiting: not at any system call of any call that takes locks, and not in the middle of one that
 * takes none.
 */
#include "cmocka_all.h"
#include "guest.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { PAGES = 200, DIRTY = 20, ENTRIES = 256, MAX_SECONDS = 40, ROUNDS = 20 };

static struct guest guest;
static struct guest_vcpu *vcpu, *idle, *absent;
static struct guest_block *memory;
static struct dl_cursor *other; /* the parked thread's; the harvest is guest.cursor's */
static struct dl_extent extents[4];
static int n_extents;

static const char *call_name;
static unsigned int signalled_point, points;
static _Thread_local bool may_be_parked;
static atomic_uint parked, released; /* how often */
static atomic_bool over;

static void park(int number)
{
	unsigned int times = atomic_fetch_add(&parked, 1) + 1;
	int before = errno;

	while (atomic_load(&released) < times)
		sched_yield();
	errno = before;
}

/* The harvest hangs: name the call that keeps it waiting. */
static void hang(int number)
{
	static const char message[] = ": a thread parked in it holds a lock\n";

	if (write(2, call_name, strlen(call_name)) > 0 &&
	    write(2, message, sizeof(message) - 1) > 0)
		_exit(1);
	_exit(2);
}

/* A point inside a call. The thread signals itself at one of them, with whatever locks it holds. */
static void pass_point(void)
{
	if (may_be_parked && ++points == signalled_point)
		pthread_kill(pthread_self(), SIGUSR1);
}

static bool pass_point_in_ioctl(struct guest *g, int fd, unsigned long request, void *arg,
				int *result)
{
	pass_point();
	return false;
}

static struct dl_os below;
static sigset_t parking_signal;

/*
 * A thread that is parked inside the model would hold the model's lock, so not the model's: before
 * the library blocks signals one may come at any time.
 */
static int signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	int r = -pthread_sigmask(how, set, old);

	if (how == SIG_BLOCK)
		pass_point();
	return r;
}

static int map(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot, int flags,
	       void **addr)
{
	pass_point();
	return below.mmap(opaque, fd, offset_bytes, bytes, prot, flags, addr);
}

static int unmap(void *opaque, void *addr, size_t bytes)
{
	sigset_t before;
	int r;

	pass_point();
	/* Some unmapping comes after signals are unblocked: the model's lock again. */
	assert_int_equal(pthread_sigmask(SIG_BLOCK, &parking_signal, &before), 0);
	r = below.munmap(opaque, addr, bytes);
	assert_int_equal(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
	return r;
}

static int advise(void *opaque, void *addr, size_t bytes, int advice)
{
	pass_point();
	return below.madvise(opaque, addr, bytes, advice);
}

static void open_guest(const struct guest_config *config)
{
	uint64_t pages[2 * PAGES];

	guest_new(&guest, config);
	below = guest.os;
	guest.os.signal_mask = signal_mask;
	guest.os.mmap = map;
	guest.os.munmap = unmap;
	guest.os.madvise = advise;
	assert_int_equal(guest_open_log(&guest), 0);
	memory = guest_add_slot(&guest, 0, 0, PAGES);
	guest_add_slot(&guest, 1, 1000, 1);
	guest_memory(&guest, 1);
	vcpu = guest_vcpu(&guest, true);
	idle = guest_vcpu(&guest, true);
	absent = guest_vcpu(&guest, false);
	guest_join(&guest, 0);
	assert_true(guest_pass(&guest, 0, pages, 2 * PAGES) > 0);
	assert_int_equal(guest_new_cursor(&guest, 0, 0, &other), 0);
	assert_int_equal(dl_harvest(other, 0, NULL), 0);
	n_extents = dl_cursor_read(other, extents, 1);
	assert_int_equal(n_extents, 1);
	for (uint64_t page = 0; page < DIRTY; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, 2 * page), 0);
	guest_stop(&guest);
	atomic_store(&parked, 0);
	atomic_store(&released, 0);
}

static void close_guest(void)
{
	dl_cursor_free(other);
	/* These calls count what is mapped. */
	guest.os = below;
	guest_close(&guest);
}

/* The paused harvest of another thread; other calls may add pages, but not above PAGES. */
static void expect_no_wait(void)
{
	uint64_t pages[2 * PAGES + 2];
	int n = guest_pass(&guest, DL_HARVEST_PAUSED, pages, 2 * PAGES + 2), found = 0;

	for (int i = 0; i < n; i++)
		found += pages[i] < 2 * DIRTY && !(pages[i] % 2);
	assert_int_equal(found, DIRTY);
}

/* Its own cursor's, too: a sender is parked, and the migration goes on without it. */
static void expect_no_wait_for(struct dl_cursor *cursor)
{
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	assert_int_equal(dl_harvest(cursor, DL_HARVEST_PAUSED, NULL), 0);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
}

static int new_cursor(void)
{
	struct dl_cursor *cursor;
	int r = guest_new_cursor(&guest, 0, 0, &cursor);

	if (!r)
		dl_cursor_free(cursor);
	return r;
}

static int free_cursor(void)
{
	dl_cursor_free(other);
	other = NULL;
	return 0;
}

static int harvest(void)
{
	int r = dl_cursor_end(other, 0);

	return r ? r : dl_harvest(other, 0, NULL);
}

static int read_extents(void)
{
	int n = dl_cursor_read(other, extents, 1);

	return n < 0 ? n : 0;
}

static int take(void)
{
	uint64_t words[PAGES / 64 + 1] = { 0 };

	return dl_cursor_take(other, 0, DL_TAKE_HARVEST, words, PAGES / 64 + 1, NULL);
}

static int take_and_clear(void)
{
	uint64_t words[PAGES / 64 + 1] = { 0 };
	int r = dl_cursor_take(other, 0, DL_TAKE_NO_CLEAR, words, PAGES / 64 + 1, NULL);

	return r ? r : dl_slot_clear(guest.log, 0, 0, PAGES * 4096);
}

static int end_pass(void)
{
	return dl_cursor_end(other, DL_END_COMMIT);
}

static int drain(void)
{
	return dl_vcpu_drain(vcpu->handle, 0);
}

static int reap(void)
{
	return dl_log_reap(guest.log, DL_REAP_NOW, NULL);
}

static int descriptor(void)
{
	int r = dl_log_fd(guest.log);

	return r < 0 ? r : 0;
}

static int add_vcpu(void)
{
	return dl_vcpu_add(guest.log, absent->fd, 0, 0, &absent->handle);
}

static int remove_vcpu(void)
{
	dl_vcpu_remove(idle->handle);
	idle->handle = NULL;
	return 0;
}

static int set_slot(void)
{
	const struct dl_slot slot = guest_slot(&guest, 2, 2000, &guest.blocks[2], 0, 1);

	return dl_slot_set(guest.log, &slot);
}

static int move_slot(void)
{
	const struct dl_slot slot = guest_slot(&guest, 1, 3000, &guest.blocks[1], 0, 1);

	return dl_slot_set(guest.log, &slot);
}

static int remove_slot(void)
{
	uint64_t word = 0;

	return dl_slot_remove(guest.log, 1, DL_REMOVE_PAUSED, &word, 1);
}

/* The other vCPU, which nobody runs, is limited. */
static int limit(void)
{
	int r = dl_vcpu_limit(idle->handle, 4096);

	return r == -EOPNOTSUPP ? 0 : r;
}

static int plan_next(void)
{
	struct dl_advice advice = { .size = sizeof(advice) };
	struct dl_plan *plan;
	int r = dl_plan_new(guest.cursor, NULL, &plan);

	if (r)
		return r;
	r = dl_plan_next(plan, 0, &advice);
	dl_plan_free(plan);
	return r;
}

struct call {
	const char *name;
	int (*make)(void);
	bool ring_only; /* makes no system call in bitmap mode */
};

static const struct call locking[] = {
	{ "dl_cursor_new", new_cursor },   { "dl_cursor_free", free_cursor },
	{ "dl_harvest", harvest },	   { "dl_cursor_read", read_extents },
	{ "dl_cursor_take", take },	   { "dl_slot_clear", take_and_clear },
	{ "dl_cursor_end", end_pass },	   { "dl_vcpu_drain", drain, true },
	{ "dl_log_reap", reap, true },	   { "dl_log_fd", descriptor },
	{ "dl_vcpu_add", add_vcpu },	   { "dl_vcpu_remove", remove_vcpu },
	{ "dl_slot_set", set_slot },	   { "dl_slot_set (a move)", move_slot },
	{ "dl_slot_remove", remove_slot }, { "dl_vcpu_limit", limit, true },
	{ "dl_plan_*", plan_next },
};

static void *make_and_be_parked(void *opaque)
{
	const struct call *call = opaque;
	int r;

	may_be_parked = true;
	r = call->make();
	may_be_parked = false;
	/* Otherwise the signal comes to nobody, or the call makes fewer system calls. */
	atomic_store(&over, true);
	return (void *)(intptr_t)r;
}

/* Parks a thread at one point of a call. False: the call has fewer points. */
static bool park_at(const struct guest_config *config, const struct call *call, unsigned int point)
{
	pthread_t thread;
	void *result;
	bool reached;

	open_guest(config);
	call_name = call->name;
	guest.config.intercept = pass_point_in_ioctl;
	points = 0;
	signalled_point = point;
	atomic_store(&over, false);
	assert_int_equal(pthread_create(&thread, NULL, make_and_be_parked, (void *)call), 0);
	while (!atomic_load(&parked) && !atomic_load(&over))
		sched_yield();
	reached = atomic_load(&parked);
	if (reached)
		expect_no_wait();
	if (reached && call->make != free_cursor)
		expect_no_wait_for(other);
	atomic_store(&released, 1);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_int_equal((int)(intptr_t)result, 0);
	close_guest();
	return reached;
}

static void park_everywhere(const struct guest_config *config)
{
	bool is_ring = config->options.mode == DL_MODE_RING;
	unsigned int all = 0;

	for (unsigned int i = 0; i < sizeof(locking) / sizeof(locking[0]); i++) {
		unsigned int point = 1;

		alarm(MAX_SECONDS);
		while (park_at(config, &locking[i], point))
			point++;
		all += point - 1;
		if (point == 1 && (is_ring || !locking[i].ring_only))
			fail_msg("%s cannot be parked", locking[i].name);
	}
	print_message("parked at %u points\n", all);
}

static const struct guest_config ring_config = {
	.model = { .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP },
	.options = { .mode = DL_MODE_RING, .ring_entries = ENTRIES },
};

static const struct guest_config bitmap_config = {
	.model = { .has = MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET },
	.options = { .mode = DL_MODE_BITMAP },
};

static void ring_a_thread_parked_at_any_system_call_holds_no_lock(void **state)
{
	park_everywhere(&ring_config);
}

static void bitmap_a_thread_parked_at_any_system_call_holds_no_lock(void **state)
{
	park_everywhere(&bitmap_config);
}

/* Calls that take no lock can be parked anywhere; those above, wherever a signal finds them. */
static int mark(void)
{
	int r = dl_mark_gpa(guest.log, 0, PAGES * 4096 - 1, 1);

	r = r ? r : dl_mark_slot(guest.log, 0, 101 * 4096, PAGES / 2 * 4096 - 4096);
	return r ? r : dl_mark_hva(guest.log, memory->memory + 101 * 4096, 10 * 4096);
}

static int acknowledge(void)
{
	return dl_cursor_ack(other, extents, 0);
}

static int ask(void)
{
	struct dl_cursor_stats cursor_stats = { .size = sizeof(cursor_stats) };
	struct dl_stats stats = { .size = sizeof(stats) };
	char text[200];
	int r = dl_cursor_stats(other, &cursor_stats);

	r = r ? r : dl_log_stats(guest.log, &stats);
	r = r ? r : dl_vcpu_stats(vcpu->handle, &stats);
	r = r ? r : dl_log_describe(guest.log, text, sizeof(text)) < 0;
	return r ? r : dl_log_last_error(guest.log, text, sizeof(text)) < 0;
}

static int add_and_remove_slot(void)
{
	int r = set_slot();

	return r ? r : dl_slot_remove(guest.log, 2, 0, NULL, 0);
}

static const struct call endless[] = {
	{ "a mark", mark },
	{ "dl_cursor_ack", acknowledge },
	{ "a question", ask },
	{ "dl_harvest", harvest },
	{ "dl_cursor_take", take },
	{ "dl_slot_clear", take_and_clear },
	{ "dl_vcpu_drain", drain },
	{ "dl_log_reap", reap },
	{ "dl_cursor_new", new_cursor },
	{ "dl_slot_set", add_and_remove_slot },
};

static void *make_endlessly(void *opaque)
{
	const struct call *call = opaque;
	int r = 0;

	while (!r && !atomic_load(&over))
		r = call->make();
	return (void *)(intptr_t)r;
}

static void park_by_chance(const struct guest_config *config, const struct call *call)
{
	pthread_t thread;
	void *result;

	open_guest(config);
	call_name = call->name;
	alarm(MAX_SECONDS);
	atomic_store(&over, false);
	assert_int_equal(pthread_create(&thread, NULL, make_endlessly, (void *)call), 0);
	for (unsigned int round = 1; round <= ROUNDS; round++) {
		pthread_kill(thread, SIGUSR1);
		while (atomic_load(&parked) < round)
			sched_yield();
		assert_int_equal(guest_harvest(&guest, DL_HARVEST_PAUSED), 0);
		atomic_store(&released, round);
	}
	expect_no_wait();
	atomic_store(&over, true);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_int_equal((int)(intptr_t)result, 0);
	close_guest();
}

static void ring_a_thread_parked_anywhere_keeps_no_harvest_waiting(void **state)
{
	for (unsigned int i = 0; i < sizeof(endless) / sizeof(endless[0]); i++)
		park_by_chance(&ring_config, &endless[i]);
}

static void bitmap_a_thread_parked_anywhere_keeps_no_harvest_waiting(void **state)
{
	for (unsigned int i = 0; i < sizeof(endless) / sizeof(endless[0]); i++)
		park_by_chance(&bitmap_config, &endless[i]);
}

int main(void)
{
	const struct sigaction parking = { .sa_handler = park }, hanging = { .sa_handler = hang };
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ring_a_thread_parked_at_any_system_call_holds_no_lock),
		cmocka_unit_test(bitmap_a_thread_parked_at_any_system_call_holds_no_lock),
		cmocka_unit_test(ring_a_thread_parked_anywhere_keeps_no_harvest_waiting),
		cmocka_unit_test(bitmap_a_thread_parked_anywhere_keeps_no_harvest_waiting),
	};

	sigemptyset(&parking_signal);
	sigaddset(&parking_signal, SIGUSR1);
	if (sigaction(SIGUSR1, &parking, NULL) || sigaction(SIGALRM, &hanging, NULL))
		return 1;
	return RUN_TESTS("process: parked threads", tests);
}
