/* SPDX-License-Identifier: MIT */
#ifndef LAB_ITS_H
#define LAB_ITS_H

/*
 * An in-kernel interrupt controller (vgic-v3) with an ITS, which the VMM programs through device
 * attributes, without help of the guest. Its tables lie in guest memory. The kernel writes them on
 * request, while no vCPU runs: these writes are what the backup bitmap is for.
 */

#include <stddef.h>
#include <stdint.h>

/* Offsets in the guest memory of the ITS. Its tables consist of 64 KiB pages. */
enum {
	ITS_COMMANDS = 0x00000,
	ITS_DEVICES = 0x10000,
	ITS_COLLECTIONS = 0x20000,
	ITS_EVENTS_A = 0x30000, /* events of ITS_DEVICE_A */
	ITS_EVENTS_B = 0x40000,
	ITS_PROPERTIES = 0x50000,
	ITS_PENDING = 0x60000,
	ITS_MEMORY_BYTES = 0x70000,
};

/* Numbers far enough apart that their table entries lie in different pages, even of 16 KiB. */
enum {
	ITS_DEVICE_A = 0,
	ITS_DEVICE_B = 4096,
	ITS_EVENT_NEAR = 0,
	ITS_EVENT_FAR = 4096, /* of device A */
	ITS_EVENT_B = 5,
	ITS_LPI_NEAR = 8192,
	ITS_LPI_FAR = 8193,
	ITS_LPI_B = 40960,
};

struct its {
	int vm_fd;
	int gic_fd;
	int its_fd;
	uint64_t gpa;
	uint8_t *memory;
};

/*
 * Creates the controller and the ITS in a VM whose vCPU exists but has not run. memory is the
 * mapping of ITS_MEMORY_BYTES at guest physical address gpa. Returns 0 or -errno, as do the
 * functions below: -ENODEV if the kernel does not support it.
 */
int its_create(struct its *its, int vm_fd, uint64_t gpa, uint8_t *memory);

/* Closes the file descriptors. The devices live as long as the VM. */
void its_close(struct its *its);

/* Clears the tables and maps three events of two devices to LPIs. */
int its_map(struct its *its);

/* Makes two LPIs pending: those of the near event of device A and of the event of device B. */
int its_raise(struct its *its);

/* Make the kernel write the ITS tables, and the pending LPIs, to guest memory. */
int its_save_tables(struct its *its);
int its_save_pending(struct its *its);

/* Copies the registers of another ITS and makes the kernel read the tables in guest memory. */
int its_restore(struct its *to, const struct its *from);

/* The bit of an LPI in the pending table in guest memory. */
int its_is_pending(const struct its *its, unsigned int lpi);

#endif
