/* SPDX-License-Identifier: MIT */
#ifndef LAB_ITS_H
#define LAB_ITS_H

/*
 * An interrupt controller with an ITS, in the kernel (vgic-v3), programmed by the VMM alone,
 * through device attributes. Its tables lie in guest memory: the kernel writes them when it is told
 * to save, while no vCPU runs, which is what the backup bitmap is for.
 */

#include <stddef.h>
#include <stdint.h>

/* Where things lie in the ITS's piece of guest memory. Tables are of 64 KiB pages. */
enum {
	ITS_COMMANDS = 0x00000,
	ITS_DEVICES = 0x10000,
	ITS_COLLECTIONS = 0x20000,
	ITS_EVENTS_A = 0x30000, /* of device ITS_DEVICE_A */
	ITS_EVENTS_B = 0x40000,
	ITS_PROPERTIES = 0x50000,
	ITS_PENDING = 0x60000,
	ITS_MEMORY_BYTES = 0x70000,
};

/* Far enough from each other that their entries lie in different pages, of 16 KiB too. */
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
 * Gives a VM, whose vCPU exists and has not run, the controller and the ITS. memory is the VMM's
 * address of ITS_MEMORY_BYTES at guest physical gpa. Returns 0 or a negative errno value (-ENODEV
 * where the kernel has none), like all of these.
 */
int its_create(struct its *its, int vm_fd, uint64_t gpa, uint8_t *memory);

/* Closes the file descriptors; the kernel's part lives as long as the VM. */
void its_close(struct its *its);

/* Empty tables, then two devices with three events, mapped to LPIs. */
int its_map(struct its *its);

/* Makes LPIs pending: that of device A's near event, and device B's. */
int its_raise(struct its *its);

/* Has the kernel write its tables, then the pending LPIs, into guest memory. */
int its_save_tables(struct its *its);
int its_save_pending(struct its *its);

/* Takes over the registers of another, and has the kernel read the tables that are in memory. */
int its_restore(struct its *to, const struct its *from);

/* Whether an LPI's bit is set in the pending table in memory. */
int its_is_pending(const struct its *its, unsigned int lpi);

#endif
