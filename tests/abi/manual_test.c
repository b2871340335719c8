/* SPDX-License-Identifier: MIT */
/* Runs the examples of the man pages, unchanged, on the model kernel. */
#include "model.h"

#include <dirtylog/dirtylog.h>
#include <dirtylog/os.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE_BYTES = 4096, PAGES = 300, MEMORY_BYTES = PAGES * PAGE_BYTES, ENTRIES = 256 };
enum { WORDS = (PAGES + 63) / 64, BAR = 1, BAR_PAGES = 4, BAR_BYTES = BAR_PAGES * PAGE_BYTES };

#define BAR_GPA UINT64_C(0x10000000)

/* As in the pages. */
struct vcpu {
	int fd;
	unsigned int id;
	struct dl_vcpu *log;
};

struct guest {
	int vm_fd;
	unsigned char *memory;
	uint64_t bytes;
	struct dl_vcpu *vcpu;
};

void print_versions(FILE *out);
int planned_ring_entries(int kvm_fd, const struct dl_options *options);
struct dl_log *open_log(int vm_fd, const struct dl_options *options);
void print_failure(FILE *out, const struct dl_log *log, int r);
void print_log(FILE *out, const struct dl_log *log);
int print_progress(FILE *out, const struct dl_log *log, const struct dl_cursor *cursor);
int map_ram(struct dl_log *log, uint32_t id, uint64_t gpa, void *memory, uint64_t bytes,
	    uint64_t file);
int unmap_bar(struct dl_log *log, uint32_t id, uint64_t *dirty, uint64_t n_words);
int map_bar(struct dl_log *log, const struct dl_slot *bar, const uint64_t *dirty,
	    uint64_t page_bytes);
int send_word(struct dl_log *log, uint32_t slot, uint64_t *words, uint64_t word,
	      uint64_t page_bytes);
int vcpu_begin(struct dl_log *log, struct vcpu *vcpu);
void vcpu_end(struct vcpu *vcpu);
int handle_log_exit(const struct kvm_run *run, struct dl_vcpu *vcpu);
int reap_when_due(struct dl_log *log, int timeout_ms);
int begin_migration(struct dl_log *log, uint32_t vcpus, struct dl_cursor **cursor);
int watch_screen(struct dl_log *log, uint32_t slot, struct dl_cursor **cursor);
int run_pass(struct dl_cursor *cursor, uint32_t flags, uint64_t *pending_bytes);
int run_last_passes(struct dl_cursor *cursor);
int write_pass(struct dl_cursor *cursor, int file);
int send_in_pieces(struct dl_cursor *cursor, const struct dl_extent *extent, uint64_t piece_bytes);
int sync_slot(struct dl_cursor *cursor, uint32_t slot, uint64_t *words, uint64_t n_words);
int sync_slot_paused(struct dl_cursor *cursor, uint32_t slot, uint64_t *words, uint64_t n_words);
int device_store(struct dl_log *log, void *at, uint64_t gpa, unsigned char value);
ssize_t device_read(struct dl_log *log, int file, const struct iovec *iov, int n_iov);
int sync_vhost(struct dl_log *log, uint64_t *words, uint64_t n_words);
unsigned long ioctls_so_far(void);
struct dl_os counting_table(const struct dl_os *base);
int run_and_copy(struct guest *guest, const struct dl_options *options, unsigned char *to);
/* Functions that the pages leave to the caller. */
int send_page(uint32_t slot, uint64_t offset_bytes);
int send_bytes(uint64_t hva, uint64_t bytes);
int send_extents(const struct dl_extent *extents, int n);
int flush_channels(void);
int create_vcpu(struct guest *guest);
void start_vcpu(struct guest *guest);
void pause_guest(struct guest *guest);

static struct model *model;
static struct dl_os os; /* the model's, counted */
static int vm_fd, vcpu_fd, full_exits;
static struct dl_log *log_;
static struct vcpu vcpu;
static struct dl_cursor *cursor;
static unsigned char *memory, *copy;
static uint64_t value, bytes_sent, bytes_to_send;

static unsigned char *map(void)
{
	void *mapping = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(mapping, MAP_FAILED);
	return mapping;
}

static void guest_write(uint64_t gpa, struct dl_vcpu *drained)
{
	struct kvm_run run = { .exit_reason = KVM_EXIT_INTR };

	value++;
	while ((run.exit_reason = (uint32_t)model_vcpu_write(model, vcpu_fd, 0, gpa, &value, 8))) {
		assert_int_equal(handle_log_exit(&run, drained), 0);
		full_exits++;
	}
	run.exit_reason = KVM_EXIT_INTR;
	assert_int_equal(handle_log_exit(&run, drained), 1);
}

static void write_page(uint32_t page)
{
	guest_write(page * (uint64_t)PAGE_BYTES, vcpu.log);
}

/* Returns the buffer that receives what is printed to *out. */
static char *printed(FILE **out)
{
	static char text[1000];

	memset(text, 0, sizeof(text));
	*out = fmemopen(text, sizeof(text) - 1, "w");
	assert_non_null(*out);
	return text;
}

static void start(uint32_t has, uint32_t mode)
{
	const struct model_options kernel = { .has = has };
	struct dl_options options = { .size = sizeof(options),
				      .mode = mode,
				      .ring_entries = ENTRIES };

	full_exits = 0;
	cursor = NULL;
	memory = map();
	copy = map();
	model = model_new(&kernel);
	os = counting_table(model_os(model));
	options.os = &os;
	vm_fd = model_vm_create(model);
	log_ = open_log(vm_fd, &options);
	assert_non_null(log_);
	assert_int_equal(map_ram(log_, 0, 0, memory, MEMORY_BYTES, 7), 0);
	vcpu_fd = model_vcpu_create(model, vm_fd);
	vcpu = (struct vcpu){ .fd = vcpu_fd };
	assert_int_equal(vcpu_begin(log_, &vcpu), 0);
}

static int start_with_rings(void **state)
{
	start(MODEL_HAS_RING_ACQ_REL, DL_MODE_AUTO);
	return 0;
}

static int start_with_bitmaps(void **state)
{
	start(MODEL_HAS_MANUAL_PROTECT, DL_MODE_BITMAP);
	return 0;
}

static int stop(void **state)
{
	dl_cursor_free(cursor);
	vcpu_end(&vcpu);
	dl_log_close(log_);
	model_free(model);
	munmap(memory, MEMORY_BYTES);
	munmap(copy, MEMORY_BYTES);
	return 0;
}

static void a_version_is_printed(void **state)
{
	FILE *out;
	const char *text = printed(&out);

	print_versions(out);
	fclose(out);
	assert_non_null(strstr(text, "compiled against 0."));
	assert_int_equal(text[strlen(text) - 1], '\n');
}

static void a_probe_says_the_size_of_rings(void **state)
{
	struct dl_options options = { .size = sizeof(options), .os = model_os(model) };

	assert_true(planned_ring_entries(model_system_fd(model), &options) > 0);
	options.mode = DL_MODE_BITMAP;
	assert_int_equal(planned_ring_entries(model_system_fd(model), &options), 0);
	options.mode = 99;
	assert_int_equal(planned_ring_entries(model_system_fd(model), &options), -EINVAL);
}

static void a_log_is_described(void **state)
{
	FILE *out;
	const char *text = printed(&out);

	print_log(out, log_);
	fclose(out);
	assert_non_null(strstr(text, "ring mode, pages of 4096 bytes: "));
	text = printed(&out);
	print_failure(out, log_, dl_slot_clear(log_, 9, 0, 0));
	fclose(out);
	assert_non_null(strstr(text, "no such slot"));
}

static void progress_is_printed(void **state)
{
	FILE *out;
	const char *text = printed(&out);

	assert_int_equal(begin_migration(log_, 1, &cursor), 0);
	assert_int_equal(print_progress(out, log_, cursor), 0);
	fclose(out);
	assert_non_null(strstr(text, "1228800 bytes left, 0 sent in 0 passes; 0 repairs"));
}

static uint64_t pending(void)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	assert_int_equal(dl_cursor_stats(cursor, &stats), 0);
	return stats.pending_bytes;
}

static void a_bar_keeps_its_dirty_pages(void **state)
{
	const struct dl_slot bar = {
		.size = sizeof(bar),
		.flags = DL_SLOT_CLEAN,
		.slot = BAR,
		.gpa = BAR_GPA,
		.bytes = BAR_BYTES,
		.hva = (uintptr_t)copy,
	};
	uint64_t dirty = 0;

	assert_int_equal(watch_screen(log_, BAR, &cursor), 0);
	assert_int_equal(map_bar(log_, &bar, &dirty, PAGE_BYTES), 0);
	assert_int_equal(pending(), 0);
	guest_write(BAR_GPA, vcpu.log);
	assert_int_equal(unmap_bar(log_, BAR, &dirty, 1), 0);
	assert_int_equal(dirty, (1 << BAR_PAGES) - 1);
	assert_int_equal(map_bar(log_, &bar, &dirty, PAGE_BYTES), 0);
	assert_int_equal(pending(), BAR_BYTES);
}

int send_page(uint32_t slot, uint64_t offset_bytes)
{
	assert_int_equal(slot, 0);
	memcpy(copy + offset_bytes, memory + offset_bytes, PAGE_BYTES);
	bytes_sent += PAGE_BYTES;
	return 0;
}

static void send_words(uint64_t *words)
{
	for (uint64_t word = 0; word < WORDS; word++)
		assert_int_equal(send_word(log_, 0, words, word, PAGE_BYTES), 0);
}

static void a_bitmap_is_synced_and_sent(void **state)
{
	uint64_t words[WORDS] = { 0 };
	unsigned long ioctls;

	bytes_sent = 0;
	for (uint32_t page = 0; page < PAGES; page++)
		write_page(page);
	assert_int_equal(begin_migration(log_, 1, &cursor), 0);
	assert_int_equal(sync_slot(cursor, 0, words, WORDS), 0);
	send_words(words);
	assert_int_equal(bytes_sent, MEMORY_BYTES);
	write_page(70);
	/* Left writable: a write between the take and the clear is in what is sent. */
	assert_int_equal(
		dl_cursor_take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words, WORDS, NULL),
		0);
	write_page(70);
	ioctls = ioctls_so_far();
	send_words(words);
	assert_int_equal(ioctls_so_far(), ioctls + 1);
	assert_int_equal(bytes_sent, MEMORY_BYTES + PAGE_BYTES);
	write_page(70);
	model_vcpu_exit(model, vcpu_fd, KVM_EXIT_INTR);
	while (sync_slot_paused(cursor, 0, words, WORDS) == 1)
		send_words(words);
	assert_int_equal(bytes_sent, MEMORY_BYTES + 2 * PAGE_BYTES);
	assert_memory_equal(copy, memory, MEMORY_BYTES);
}

static uint64_t entries(void)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	assert_int_equal(dl_log_stats(log_, &stats), 0);
	return stats.entries;
}

static void rings_are_reaped(void **state)
{
	uint64_t drained, more;
	uint32_t page = 0;

	assert_int_equal(begin_migration(log_, 1, &cursor), 0);
	while (!full_exits)
		write_page(page++);
	/* Nearly full again. */
	drained = entries();
	more = drained * 9 / 10;
	for (uint64_t i = 0; i < more; i++)
		write_page(page++ % PAGES);
	assert_int_equal(entries(), drained);
	/* The model's descriptor cannot be polled, which looks like a timer that has expired. */
	assert_int_equal(reap_when_due(log_, 0), 0);
	assert_true(entries() >= drained + more);
}

static void a_missing_vcpu_is_noticed(void **state)
{
	assert_int_equal(begin_migration(log_, 2, &cursor), -EBUSY);
	assert_null(cursor);
}

int send_extents(const struct dl_extent *extents, int n)
{
	for (int i = 0; i < n; i++)
		memcpy(copy + extents[i].gpa, (void *)(uintptr_t)extents[i].hva, extents[i].bytes);
	return 0;
}

int flush_channels(void)
{
	return 0;
}

static void passes_copy_the_memory(void **state)
{
	uint64_t pending_bytes;

	assert_int_equal(begin_migration(log_, 1, &cursor), 0);
	for (uint32_t page = 0; page < PAGES; page++)
		write_page(page);
	assert_int_equal(run_pass(cursor, 0, &pending_bytes), 0);
	assert_int_equal(pending_bytes, MEMORY_BYTES);
	write_page(5);
	assert_int_equal(device_store(log_, memory + 9 * PAGE_BYTES, 9 * PAGE_BYTES, 1), 0);
	model_vcpu_exit(model, vcpu_fd, KVM_EXIT_INTR);
	assert_int_equal(run_last_passes(cursor), 0);
	assert_memory_equal(copy, memory, MEMORY_BYTES);
	assert_int_equal(pending(), 0);
}

static int scratch_file(void)
{
	FILE *file = tmpfile();
	int fd;

	assert_non_null(file);
	fd = dup(fileno(file));
	assert_true(fd >= 0);
	fclose(file);
	return fd;
}

static void a_pass_is_written_to_a_file(void **state)
{
	int file = scratch_file();

	for (uint32_t page = 0; page < PAGES; page++)
		write_page(page);
	assert_int_equal(begin_migration(log_, 1, &cursor), 0);
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(write_pass(cursor, file), 0);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	assert_int_equal(pending(), 0);
	assert_int_equal(pread(file, copy, MEMORY_BYTES, 0), MEMORY_BYTES);
	assert_memory_equal(copy, memory, MEMORY_BYTES);
	close(file);
}

int send_bytes(uint64_t hva, uint64_t bytes)
{
	if (bytes_sent + bytes > bytes_to_send)
		return -EPIPE;
	bytes_sent += bytes;
	return 0;
}

static void what_is_not_sent_stays_dirty(void **state)
{
	struct dl_extent extent;

	bytes_sent = 0;
	bytes_to_send = 10 * PAGE_BYTES;
	assert_int_equal(begin_migration(log_, 1, &cursor), 0);
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, &extent, 1), 1);
	assert_int_equal(send_in_pieces(cursor, &extent, 3 * PAGE_BYTES), -EPIPE);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	assert_int_equal(bytes_sent, 9 * PAGE_BYTES);
	assert_int_equal(pending(), MEMORY_BYTES - 9 * PAGE_BYTES);
}

static void a_read_into_memory_is_marked(void **state)
{
	const struct iovec iov[] = { { memory + PAGE_BYTES, 16 }, { memory + 7 * PAGE_BYTES, 16 } };
	int file = scratch_file();

	assert_int_equal(pwrite(file, "twenty-four bytes of it", 24, 0), 24);
	assert_int_equal(watch_screen(log_, 0, &cursor), 0);
	assert_int_equal(device_read(log_, file, iov, 2), 24);
	assert_int_equal(pending(), 2 * PAGE_BYTES);
	assert_string_equal((char *)iov[1].iov_base, "s of it");
	close(file);
}

static void a_foreign_log_is_synced(void **state)
{
	uint64_t words[WORDS] = { 1 << 5, 1 };

	assert_int_equal(watch_screen(log_, 0, &cursor), 0);
	assert_int_equal(sync_vhost(log_, words, WORDS), 0);
	assert_int_equal(pending(), 2 * PAGE_BYTES);
	assert_true(!words[0] && !words[1]);
}

static void a_table_counts_ioctls(void **state)
{
	struct dl_options options = { .size = sizeof(options), .os = &os };
	unsigned long before = ioctls_so_far();

	assert_true(planned_ring_entries(model_system_fd(model), &options) > 0);
	assert_true(ioctls_so_far() > before);
	assert_ptr_equal(counting_table(NULL).mmap, dl_os_system()->mmap);
	os = counting_table(model_os(model));
}

int create_vcpu(struct guest *guest)
{
	return vcpu_fd = model_vcpu_create(model, guest->vm_fd);
}

void start_vcpu(struct guest *guest)
{
	for (uint64_t page = 0; page < PAGES; page++)
		guest_write(page * PAGE_BYTES, guest->vcpu);
}

void pause_guest(struct guest *guest)
{
	/* It has gone on until now. */
	start_vcpu(guest);
	model_vcpu_exit(model, vcpu_fd, KVM_EXIT_INTR);
}

static void a_whole_guest_is_copied(void **state)
{
	struct dl_options options = { .size = sizeof(options),
				      .os = model_os(model),
				      .ring_entries = ENTRIES };
	struct guest guest = { .vm_fd = model_vm_create(model),
			       .memory = memory,
			       .bytes = MEMORY_BYTES };

	assert_int_equal(run_and_copy(&guest, &options, copy), 0);
	assert_true(full_exits > 0);
	assert_memory_equal(copy, memory, MEMORY_BYTES);
}

#define TEST(name, mode) cmocka_unit_test_setup_teardown(name, start_with_##mode, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_version_is_printed, rings),
		TEST(a_probe_says_the_size_of_rings, rings),
		TEST(a_log_is_described, rings),
		TEST(progress_is_printed, rings),
		TEST(a_bar_keeps_its_dirty_pages, rings),
		TEST(a_bitmap_is_synced_and_sent, bitmaps),
		TEST(rings_are_reaped, rings),
		TEST(a_missing_vcpu_is_noticed, rings),
		TEST(passes_copy_the_memory, rings),
		TEST(passes_copy_the_memory, bitmaps),
		TEST(a_pass_is_written_to_a_file, rings),
		TEST(what_is_not_sent_stays_dirty, rings),
		TEST(a_read_into_memory_is_marked, rings),
		TEST(a_foreign_log_is_synced, rings),
		TEST(a_table_counts_ioctls, rings),
		TEST(a_whole_guest_is_copied, rings),
	};

	return cmocka_run_group_tests_name("man pages", tests, NULL, NULL);
}
