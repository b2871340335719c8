/* SPDX-License-Identifier: MIT */
/* The example of dl_slot_watch(3), on the model kernel. */
#include "../unit/cmocka_all.h"
#include "../model/model.h"

#include <dirtylog/dirtylog.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, MEMORY_BYTES = 100 * PAGE_BYTES };

/* As in the page. */
int watch_memory(struct dl_log *log, uint32_t slot, int fd, size_t bytes, uint32_t flags,
		 void **alias);
int print_missed(FILE *out, struct dl_cursor *audit);

static struct dl_log *open_log(struct model *model, int fd)
{
	const struct dl_options options = { .size = sizeof(options), .os = model_os(model) };
	void *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	const struct dl_slot slot = { .size = sizeof(slot),
				      .bytes = MEMORY_BYTES,
				      .hva = (uintptr_t)memory };
	struct dl_log *log;

	assert_ptr_not_equal(memory, MAP_FAILED);
	assert_int_equal(dl_log_open(model_vm_create(model), &options, &log, NULL, 0), 0);
	assert_int_equal(dl_slot_set(log, &slot), 0);
	return log;
}

static void forgotten_marks_are_printed(void **state)
{
	const struct dl_cursor_options options = { .size = sizeof(options),
						   .flags = DL_CURSOR_MISSED };
	struct model *model = model_new(NULL);
	int fd = memfd_create("guest", MFD_CLOEXEC);
	struct dl_cursor *audit;
	char *text = NULL, *alias;
	struct dl_log *log;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	assert_int_equal(ftruncate(fd, MEMORY_BYTES), 0);
	log = open_log(model, fd);
	assert_int_equal(watch_memory(log, 9, fd, MEMORY_BYTES, 0, (void **)&alias), -ENOENT);
	assert_int_equal(watch_memory(log, 0, fd, MEMORY_BYTES, DL_WATCH_AUDIT, (void **)&alias),
			 0);
	assert_int_equal(dl_cursor_new(log, &options, &audit), 0);
	model_alias_wrote(model, alias + 5 * PAGE_BYTES, 1);
	model_alias_wrote(model, alias + 7 * PAGE_BYTES, 2 * PAGE_BYTES);
	assert_int_equal(dl_mark_slot(log, 0, 5 * PAGE_BYTES, 1), 0);
	assert_int_equal(print_missed(out, audit), 0);
	assert_int_equal(print_missed(out, audit), 1);
	fclose(out);
	assert_string_equal(text, "8192 bytes at 0x7000 were written and not marked\n");
	free(text);
	dl_cursor_free(audit);
	dl_log_close(log);
	model_free(model);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forgotten_marks_are_printed),
	};

	return cmocka_run_group_tests_name("dl_slot_watch(3)", tests, NULL, NULL);
}
