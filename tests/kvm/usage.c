/* SPDX-License-Identifier: MIT */
#include "rig.h"
#include "usage.h"

#include <dirent.h>
#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

static unsigned int count_fds(void)
{
	DIR *directory = opendir("/proc/self/fd");
	unsigned int count = 0;

	assert_non_null(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static unsigned int count_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned int count = 0;
	int c;

	assert_non_null(maps);
	while ((c = getc(maps)) != EOF)
		count += c == '\n';
	fclose(maps);
	return count;
}

static uint64_t resident_bytes(void)
{
	FILE *statm = fopen("/proc/self/statm", "r");
	unsigned long long size, resident;

	assert_non_null(statm);
	assert_int_equal(fscanf(statm, "%llu %llu", &size, &resident), 2);
	fclose(statm);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t heap_bytes(void)
{
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
#else
	return 0;
#endif
}

struct usage usage_measure(void)
{
	struct usage usage;

	malloc_trim(0);
	usage.fds = count_fds();
	usage.mappings = count_mappings();
	usage.resident_bytes = resident_bytes();
	usage.heap_bytes = heap_bytes();
	return usage;
}
