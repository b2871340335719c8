/* SPDX-License-Identifier: MIT */
/* Probes this machine's kernel for the model's options. */
#include "sides.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

static uint32_t host_capability(const struct machine *machine, int capability)
{
	int r = ioctl(machine->kvm_fd, KVM_CHECK_EXTENSION, capability);

	return r > 0 ? (uint32_t)r : 0;
}

/* The smallest ring. If it exceeds a page, the kernel reserves entries for a PML buffer. */
static uint32_t host_ring_min_bytes(uint32_t capability, uint32_t from_bytes, uint32_t max_bytes)
{
	struct kvm_enable_cap cap = { .cap = capability };
	struct machine machine;
	uint32_t bytes;

	if (machine_open(&machine))
		return from_bytes;
	for (bytes = from_bytes; bytes < max_bytes; bytes *= 2) {
		cap.args[0] = bytes;
		if (!ioctl(machine.vm_fd, KVM_ENABLE_CAP, &cap))
			break;
	}
	machine_close(&machine);
	return bytes;
}

static bool host_is_before(unsigned int major, unsigned int minor)
{
	unsigned int is_major = 0, is_minor = 0;
	struct utsname host;

	if (uname(&host) || sscanf(host.release, "%u.%u", &is_major, &is_minor) != 2)
		return false;
	return is_major < major || (is_major == major && is_minor < minor);
}

int host_options(struct model_options *options)
{
	uint32_t tso, acq_rel, manual;
	struct machine machine;
	int r = machine_open(&machine);

	if (r)
		return r;
	memset(options, 0, sizeof(*options));
	tso = host_capability(&machine, KVM_CAP_DIRTY_LOG_RING);
	acq_rel = host_capability(&machine, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
	manual = host_capability(&machine, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	options->page_bytes = (uint32_t)machine.page_bytes;
	options->slot_ids = host_capability(&machine, KVM_CAP_NR_MEMSLOTS);
	options->address_spaces = host_capability(&machine, KVM_CAP_MULTI_ADDRESS_SPACE);
	if (!options->address_spaces)
		options->address_spaces = 1;
	options->ring_max_bytes = tso > acq_rel ? tso : acq_rel;
	options->has = MODEL_HAS_NOTHING | (tso ? MODEL_HAS_RING_TSO : 0) |
		       (acq_rel ? MODEL_HAS_RING_ACQ_REL : 0) |
		       (manual & 1 ? MODEL_HAS_MANUAL_PROTECT : 0) |
		       (manual & 2 ? MODEL_HAS_INITIALLY_SET : 0);
	if (host_capability(&machine, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP))
		options->has |= MODEL_HAS_BACKUP;
	options->looks_at_ring_on_entry = host_is_before(6, 2);
	machine_close(&machine);
	if (options->ring_max_bytes)
		options->ring_min_bytes = host_ring_min_bytes(
			acq_rel ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL : KVM_CAP_DIRTY_LOG_RING,
			options->page_bytes, options->ring_max_bytes);
	if (options->ring_min_bytes > options->page_bytes)
		options->pml_entries = 512;
#if defined(__x86_64__)
	options->delete_unmaps_all = true;
#else
	options->arch = DL_OS_ARCH_RING_NEEDS_BACKUP;
	options->write_order = MODEL_MAP_THEN_LOG;
	options->protects_ranges = true;
#endif
	return 0;
}

/* Writes a page twice without protecting it in between: emulation makes two entries. */
bool host_emulates_kernel_mode(void)
{
	static const struct op script[] = {
		{ OP_ENABLE, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 65536 },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_REGION, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, 1, 0 },
		{ OP_WRITE, 0, 0, 1, 1, 1, GUEST_KERNEL },
		{ OP_WRITE, 0, 0, 1, 1, 2, GUEST_KERNEL },
		{ OP_TAKE, 0, 3, 1 },
	};
	struct answer answer = { .result = -1 };
	struct side real;
	size_t i;
	int r = side_open(&real, NULL);

	for (i = 0; !r && i < sizeof(script) / sizeof(script[0]); i++) {
		side_do(&real, &script[i], &answer);
		r = answer.result;
	}
	side_close(&real);
	return !r && answer.count == 2;
}
