/* SPDX-License-Identifier: MIT */
/*
 * Guest memory in huge pages. On arm64, a ring without the backup bitmap loses ordinary vCPU writes
 * to huge pages: KVM splits a huge mapping only if the slot has a bitmap, and without one a single
 * entry stands for the whole huge page. The library therefore enables the backup bitmap by default.
 */
#include "rig.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGES = 2 };

#define MAX_HUGE_BYTES (UINT64_C(64) << 20)

static size_t huge_page_bytes(void)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "r");
	unsigned long long bytes = 0;

	if (file) {
		if (fscanf(file, "%llu", &bytes) != 1)
			bytes = 0;
		fclose(file);
	}
	if (!bytes || bytes > MAX_HUGE_BYTES)
		rig_skip("this kernel has no transparent huge pages, or they are too large");
	return (size_t)bytes;
}

/* The KiB in huge pages of the mapping that contains an address. */
static uint64_t huge_kib(const void *address)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	uint64_t start, end, found = 0, kib;
	bool inside = false;
	char line[300];

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
			inside = (uintptr_t)address >= start && (uintptr_t)address < end;
		else if (inside && sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1)
			found = kib;
	}
	if (file)
		fclose(file);
	return found;
}

/* Memory in huge pages, and aligned to one: gpa and hva must agree in alignment. */
static uint8_t *map_huge(size_t bytes, size_t huge_bytes)
{
	uint8_t *mapping = mmap(NULL, bytes + huge_bytes, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t before;

	assert_ptr_not_equal(mapping, MAP_FAILED);
	before = (huge_bytes - (uintptr_t)mapping % huge_bytes) % huge_bytes;
	if (before)
		munmap(mapping, before);
	munmap(mapping + before + bytes, huge_bytes - before);
	mapping += before;
	madvise(mapping, bytes, MADV_HUGEPAGE);
	memset(mapping, 1, bytes);
	return mapping;
}

static struct rig_slot *huge_slot(struct rig *rig)
{
	size_t huge_bytes = huge_page_bytes(), bytes = HUGE_PAGES * huge_bytes;
	struct rig_slot *slot = &rig->slots[rig->slot_count++];

	*slot = (struct rig_slot){
		.gpa = UINT64_C(1) << 30,
		.bytes = bytes,
		.memory = map_huge(bytes, huge_bytes),
	};
	if (huge_kib(slot->memory) * 1024 < bytes)
		rig_skip("no huge pages are free here");
	slot->block = checker_add(&rig->checker, slot->memory, bytes);
	assert_int_equal(rig_slot_set(rig, slot, 0, 0), 0);
	return slot;
}

/* A migration whose vCPU writes every page after each pass. Returns the number of lost pages. */
static uint64_t migrate(uint32_t mode, uint32_t backup, struct spy *spy)
{
	const struct rig_config config = { .mode = mode, .backup = backup, .vcpus = 1, .spy = spy };
	struct rig *rig = rig_new(&config);
	struct rig_slot *slot = huge_slot(rig);
	struct rig_range range = { .slot = slot, .pages = slot->bytes / rig->page_bytes };
	uint64_t lost;

	/* As usual in practice, the pages are mapped writable before logging starts. */
	rig_write(rig, 0, &range, 1);
	rig_join(rig, 0);
	rig_pass(rig, 0);
	rig_write(rig, 0, &range, 2);
	rig_pass(rig, 0);
	rig_write(rig, 0, &range, 3);
	rig_pass(rig, DL_HARVEST_PAUSED);
	lost = checker_differing_pages(&rig->checker);
	printf("  %" PRIu64 " of %" PRIu64 " pages lost (backup bitmap: %s)\n", lost, range.pages,
	       rig->log_config.backup ? "yes" : "no");
	rig_free(rig);
	return lost;
}

static void defaults_lose_nothing(void **state)
{
	(void)state;
	assert_int_equal(migrate(DL_MODE_AUTO, DL_BACKUP_AUTO, NULL), 0);
}

static void bitmap_loses_nothing(void **state)
{
	(void)state;
	assert_int_equal(migrate(DL_MODE_BITMAP, DL_BACKUP_AUTO, NULL), 0);
}

static void backup_off_loses_nothing(void **state)
{
	(void)state;
	assert_int_equal(migrate(DL_MODE_AUTO, DL_BACKUP_OFF, NULL), 0);
}

/*
 * The case that the library avoids: it loses pages on arm64, and none on x86. The library has to be
 * told that this architecture is another.
 */
static void ring_without_backup_loses_pages_on_arm64(void **state)
{
	static struct spy spy; /* outlives a test that fails, as the rig does */
	uint64_t lost;

	spy_init(&spy);
	spy.os.arch = DL_OS_ARCH_RING_ALONE_SAFE;
	lost = migrate(DL_MODE_RING, DL_BACKUP_OFF, &spy);

	(void)state;
#if defined(__x86_64__)
	assert_int_equal(lost, 0);
#else
	assert_true(lost > 0);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(defaults_lose_nothing),
		rig_test(bitmap_loses_nothing),
		rig_test(backup_off_loses_nothing),
		rig_test(ring_without_backup_loses_pages_on_arm64),
	};

	return rig_run_tests("huge-pages", tests);
}
