/* SPDX-License-Identifier: MIT */
/*
 * Every acquire and release between threads of the library, together with its partner: see pair.h.
 * Those between the library and the kernel are in test_cells.c; those that no race can show are in
 * protocols.py.
 */
#include "pair.h"

#include "cursor.h"
#include "guest.h"
#include "pages/audit.h"
#include "pages/rcu.h"
#include "ring/ring_private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGES = 64, LAST_PUTS = 100 };

static struct guest guest;

static int open_guest(void **state)
{
	const struct guest_config config = { .options = { .mode = DL_MODE_RING,
							  .ring_entries = 256 } };

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	return 0;
}

static int close_guest(void **state)
{
	guest_close(&guest);
	return 0;
}

/* The list of vCPUs. */
static void add_vcpu(void)
{
	guest_vcpu(&guest, true);
}

static bool vcpu_is_there(void)
{
	const struct dl_vcpu *vcpu = dli_vcpu_list_next(&guest.log->vcpus, NULL);

	/* The fields of the new vCPU are published with it. */
	return vcpu && vcpu->log == guest.log;
}

static void a_vcpu_is_complete_before_it_is_visible(void **state)
{
	pair_run(PAIR(add_vcpu, vcpu_is_there), NULL);
}

/* A list that grows by a group. Its vCPUs only need a pointer to some ring. */
static struct {
	struct dli_vcpu_list list;
	struct dli_ring ring;
	struct dl_vcpu vcpus[VCPU_GROUP + 1];
} grown;

static void add_first_of_a_group(void)
{
	assert_int_equal(dli_vcpu_list_append(&grown.list, &grown.vcpus[VCPU_GROUP]), 0);
}

static bool group_is_there(void)
{
	return dli_vcpu_group_next(&grown.list.first);
}

static void a_group_is_complete_before_it_is_visible(void **state)
{
	assert_int_equal(dli_vcpu_list_init(&grown.list), 0);
	for (int i = 0; i <= VCPU_GROUP; i++)
		grown.vcpus[i].ring = &grown.ring;
	for (int i = 0; i < VCPU_GROUP; i++)
		assert_int_equal(dli_vcpu_list_append(&grown.list, &grown.vcpus[i]), 0);
	pair_run(PAIR(add_first_of_a_group, group_is_there), NULL);
	assert_ptr_equal(dli_vcpu_list_next(&grown.list, &grown.vcpus[VCPU_GROUP - 1]),
			 &grown.vcpus[VCPU_GROUP]);
	free(dli_vcpu_group_next(&grown.list.first));
	pthread_mutex_destroy(&grown.list.lock);
}

/*
 * The table of slots. One read section covers the whole wait: in builds for ThreadSanitizer the
 * ends of a section order the threads.
 */
static void set_slot(void)
{
	guest_add_slot(&guest, 1, 1000, PAGES);
}

static void *observe_table(void *opaque)
{
	struct pair *pair = opaque;
	const struct dli_slot_table *before, *table;
	uint32_t n;

	dli_rcu_read_lock();
	before = dli_slots_table(&guest.log->slots);
	while ((table = dli_slots_table(&guest.log->slots)) == before)
		pair_look(pair);
	n = table->n;
	dli_rcu_read_unlock();
	return n == 2 && pair->payload == 1 ? NULL : pair;
}

static void a_table_is_complete_before_it_is_visible(void **state)
{
	pair_run(PAIR(set_slot, NULL), observe_table);
}

/* Logging is on. */
static struct dl_cursor *cursor;

static void begin_logging(void)
{
	assert_int_equal(dl_cursor_new(guest.log, NULL, &cursor), 0);
}

static bool is_on(void)
{
	return dli_log_is_on(guest.log);
}

static void logging_on_publishes_what_preceded_the_cursor(void **state)
{
	pair_run(PAIR(begin_logging, is_on), NULL);
	dl_cursor_free(cursor);
}

/*
 * The target of a slot's marks. In one read section, like the table: the first cursor's views are
 * installed without a grace period.
 */
static void *observe_target(void *opaque)
{
	struct pair *pair = opaque;
	const struct dli_page_set *target;
	struct dli_slot *slot;
	uint64_t pages;

	dli_rcu_read_lock();
	slot = dli_slot_find(dli_slots_table(&guest.log->slots), 0);
	while (!(target = dli_slot_target(slot)))
		pair_look(pair);
	pages = dli_page_set_pages(target);
	dli_rcu_read_unlock();
	return pages == PAGES && pair->payload == 1 ? NULL : pair;
}

static void a_set_is_complete_before_it_is_marked(void **state)
{
	pair_run(PAIR(begin_logging, NULL), observe_target);
	dl_cursor_free(cursor);
}

/*
 * A cursor's registry of views, which acknowledgements and statistics read without a lock. The
 * count is published with a new entry, the entry alone when it is used again.
 */
static void *observe_count(void *opaque)
{
	struct pair *pair = opaque;
	uint64_t pages;
	bool is_right;

	dli_rcu_read_lock();
	while (dli_cursor_count(cursor) == 1)
		pair_look(pair);
	pages = dli_page_set_pages(
		atomic_load_explicit(&cursor->views[1], memory_order_relaxed)->set);
	is_right = pages == PAGES && pair->payload == 1;
	dli_rcu_read_unlock();
	return is_right ? NULL : pair;
}

static void a_view_is_complete_before_it_is_counted(void **state)
{
	begin_logging();
	pair_run(PAIR(set_slot, NULL), observe_count);
	dl_cursor_free(cursor);
}

static void *observe_entry(void *opaque)
{
	struct pair *pair = opaque;
	const struct dli_view *view;
	uint64_t pages;

	dli_rcu_read_lock();
	while (!(view = dli_cursor_view_at(cursor, 1)))
		pair_look(pair);
	pages = dli_page_set_pages(view->set);
	dli_rcu_read_unlock();
	return pages == PAGES && pair->payload == 1 ? NULL : pair;
}

static void a_view_is_complete_before_it_takes_an_old_place(void **state)
{
	begin_logging();
	set_slot();
	assert_int_equal(dl_slot_remove(guest.log, 1, 0, NULL, 0), 0);
	assert_int_equal(dli_cursor_count(cursor), 2);
	assert_null(dli_cursor_view_at(cursor, 1));
	pair_run(PAIR(set_slot, NULL), observe_entry);
	dl_cursor_free(cursor);
}

/* The log is closed. It was never on, since a cursor would be an earlier release of the state. */
static void close_log(void)
{
	dl_log_close(guest.log);
	guest.log = NULL;
}

static struct dl_vcpu *handle;

static bool is_closed(void)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	return dl_vcpu_stats(handle, &stats) == -ECANCELED;
}

static void a_closed_log_publishes_what_preceded_the_close(void **state)
{
	handle = guest_vcpu(&guest, true)->handle;
	pair_run(PAIR(close_log, is_closed), NULL);
}

/* The thread that drops the last reference frees what the others used. */
static void *remove_vcpu(void *vcpu)
{
	dl_vcpu_remove(vcpu);
	return NULL;
}

static void the_last_handle_frees_a_log_after_all_uses(void **state)
{
	for (int i = 0; i < LAST_PUTS; i++) {
		pthread_t thread;

		open_guest(NULL);
		handle = guest_vcpu(&guest, true)->handle;
		guest.vcpus[0].handle = NULL;
		assert_int_equal(pthread_create(&thread, NULL, remove_vcpu, handle), 0);
		if (i % 2)
			sched_yield();
		close_log();
		pthread_join(thread, NULL);
		close_guest(NULL);
	}
}

/* A view is freed after the last acknowledgement and the last question that found it. */
static void *ask_and_acknowledge(void *opaque)
{
	struct dl_extent page = *(struct dl_extent *)opaque;

	page.bytes = guest.page_bytes;
	for (int i = 0; i < PAGES; i++, page.offset_bytes += page.bytes) {
		struct dl_cursor_stats stats = { .size = sizeof(stats) };

		if (dl_cursor_stats(cursor, &stats) || dl_cursor_ack(cursor, &page, 1))
			return opaque;
	}
	return NULL;
}

static void a_view_is_freed_after_all_uses(void **state)
{
	struct dl_slot slot = guest_slot(&guest, 1, 1000, guest_memory(&guest, PAGES), 0, PAGES);
	struct dl_extent extents[2];

	begin_logging();
	for (int i = 0; i < LAST_PUTS; i++) {
		pthread_t thread;
		void *failed;

		assert_int_equal(dl_slot_set(guest.log, &slot), 0);
		assert_int_equal(dl_harvest(cursor, DL_HARVEST_ALL, NULL), 0);
		assert_int_equal(dl_cursor_read(cursor, extents, 2), 2);
		assert_int_equal(pthread_create(&thread, NULL, ask_and_acknowledge, &extents[1]),
				 0);
		if (i % 2)
			sched_yield();
		assert_int_equal(dl_slot_remove(guest.log, 1, 0, NULL, 0), 0);
		pthread_join(thread, &failed);
		assert_null(failed);
		assert_int_equal(dl_cursor_end(cursor, 0), 0);
	}
	dl_cursor_free(cursor);
}

/*
 * A mark and the claim of its page. The summaries above a word must not be what orders the two, so
 * the last words of a chunk are marked while the taker is on its way to them.
 */
enum {
	WAY_WORDS = 448,
	MARKED_PAGES = (PAGE_SET_CHUNK_WORDS - WAY_WORDS) * PAGE_SET_WORD_PAGES,
	MARKS_A_TAKE = 16,
};

static struct {
	struct dli_page_set *set;
	int memory[MARKED_PAGES]; /* plain: ordered by the mark */
	struct dli_batch batch;
	atomic_uint takes;
} marked;

static void *write_and_mark(void *unused)
{
	for (unsigned int n = 0; n < MARKED_PAGES; n++) {
		/* The first page of each word, then the second of each, and so on. */
		uint64_t page = n % 64 * 64 + n / 64;

		/* MARKS_A_TAKE per take, however fast the threads are. Relaxed: no order. */
		while (n / MARKS_A_TAKE > atomic_load_explicit(&marked.takes, memory_order_relaxed))
			sched_yield();
		marked.memory[page] = 1;
		dli_page_set_count(marked.set,
				   dli_page_set_mark_word(marked.set, WAY_WORDS + page / 64,
							  UINT64_C(1) << page % 64));
	}
	return NULL;
}

static unsigned int check_batch(const struct dli_batch *batch)
{
	unsigned int pages = 0;

	for (uint32_t i = 0; i < batch->n; i++) {
		if (batch->word[i] < WAY_WORDS)
			continue;
		for (uint64_t bits = batch->bits[i]; bits; bits &= bits - 1, pages++)
			assert_int_equal(marked.memory[(batch->word[i] - WAY_WORDS) * 64 +
						       (unsigned int)__builtin_ctzll(bits)],
					 1);
	}
	return pages;
}

static void memory_is_written_before_its_page_is_claimed(void **state)
{
	unsigned int pages = 0;
	pthread_t marker;

	assert_int_equal(dli_page_set_new(model_os(guest.model), PAGE_SET_CHUNK_PAGES, &marked.set),
			 0);
	assert_int_equal(pthread_create(&marker, NULL, write_and_mark, NULL), 0);
	while (pages < MARKED_PAGES) {
		uint64_t block = 0;

		dli_page_set_mark_range(marked.set, 0, WAY_WORDS * PAGE_SET_WORD_PAGES);
		atomic_fetch_add_explicit(&marked.takes, 1, memory_order_relaxed);
		assert_true(dli_page_set_take(marked.set, &block, true, &marked.batch));
		pages += check_batch(&marked.batch);
	}
	pthread_join(marker, NULL);
	dli_page_set_free(marked.set);
}

/* A foreign log: its writer changes memory, then sets a bit. */
static _Atomic uint64_t foreign_word;

static void set_foreign_bit(void)
{
	atomic_fetch_or_explicit(&foreign_word, 1, memory_order_release);
}

static bool mark_foreign_bit(uint32_t flags)
{
	const struct dl_bitmap bitmap = { .size = sizeof(bitmap),
					  .flags = flags,
					  .bytes = guest.page_bytes,
					  .page_bytes = guest.page_bytes };
	uint64_t marked_bytes = 0;

	return !dl_mark_bitmap(guest.log, &bitmap, (uint64_t *)&foreign_word, 1, &marked_bytes) &&
	       marked_bytes;
}

static bool foreign_bit_is_seen(void)
{
	return mark_foreign_bit(0);
}

static bool foreign_bit_is_taken(void)
{
	return mark_foreign_bit(DL_BITMAP_TAKE);
}

static void memory_is_written_before_its_foreign_bit_is_marked(void **state)
{
	guest_join(&guest, DL_CURSOR_CLEAN);
	pair_run(PAIR(set_foreign_bit, foreign_bit_is_seen), NULL);
	foreign_word = 0;
	pair_run(PAIR(set_foreign_bit, foreign_bit_is_taken), NULL);
	assert_int_equal(foreign_word, 0);
	guest_leave(&guest);
}

/* The audit of a slot's marks. Without a cursor, marks look for it only if one is counted. */
static struct {
	void *alias; /* of which the model wants no memory */
	const struct dli_slot *slot;
} audited;

static void audit_slot(void)
{
	assert_int_equal(dl_slot_watch(guest.log, 0, audited.alias, DL_WATCH_AUDIT), 0);
}

static bool audit_is_there(void)
{
	const struct dli_audit *audit = dli_slot_audit(audited.slot);

	/* It is published with its fields. */
	return audit && audit->pages == PAGES;
}

static bool audit_is_counted(void)
{
	return dli_log_wants_marks(guest.log);
}

static void an_audit_is_complete_before_it_is_marked(void **state)
{
	size_t bytes = PAGES * guest.page_bytes;

	audited.slot = dli_slot_find(dli_slots_table(&guest.log->slots), 0);
	audited.alias = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(audited.alias, MAP_FAILED);
	pair_run(PAIR(audit_slot, audit_is_there), NULL);
	assert_int_equal(dl_slot_watch(guest.log, 0, NULL, 0), 0);
	pair_run(PAIR(audit_slot, audit_is_counted), NULL);
	assert_int_equal(dl_slot_watch(guest.log, 0, NULL, 0), 0);
	assert_false(audit_is_there() || audit_is_counted());
	munmap(audited.alias, bytes);
}

#define pair_test(function) cmocka_unit_test_setup_teardown(function, open_guest, close_guest)

int main(void)
{
	const struct CMUnitTest tests[] = {
		pair_test(a_vcpu_is_complete_before_it_is_visible),
		cmocka_unit_test(a_group_is_complete_before_it_is_visible),
		pair_test(a_table_is_complete_before_it_is_visible),
		pair_test(logging_on_publishes_what_preceded_the_cursor),
		pair_test(a_set_is_complete_before_it_is_marked),
		pair_test(a_view_is_complete_before_it_is_counted),
		pair_test(a_view_is_complete_before_it_takes_an_old_place),
		pair_test(a_closed_log_publishes_what_preceded_the_close),
		cmocka_unit_test(the_last_handle_frees_a_log_after_all_uses),
		pair_test(a_view_is_freed_after_all_uses),
		pair_test(memory_is_written_before_its_page_is_claimed),
		pair_test(memory_is_written_before_its_foreign_bit_is_marked),
		pair_test(an_audit_is_complete_before_it_is_marked),
	};

	return RUN_TESTS("races: memory orders in pairs", tests);
}
