/* SPDX-License-Identifier: MIT */
#include "alias.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

uint8_t *alias_new(const struct rig_slot *slot)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);
	uint8_t *alias;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)slot->bytes), 0);
	alias = mmap(NULL, slot->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(alias, MAP_FAILED);
	memcpy(alias, slot->memory, slot->bytes);
	assert_ptr_equal(mmap(slot->memory, slot->bytes, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_FIXED, fd, 0),
			 slot->memory);
	close(fd);
	return alias;
}
