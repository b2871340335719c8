/* SPDX-License-Identifier: MIT */
#ifndef VMM_HV_H
#define VMM_HV_H

/*
 * The hypervisor below the VMM: the model kernel or this machine's /dev/kvm. A vCPU stores one
 * value at a few guest addresses at a time. Errors of the hypervisor itself end the program.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dirtylog/os.h>

#include "model.h"

enum {
	HV_STORES = 32,
	HV_VCPUS = 4,
};

struct hv_stores {
	uint64_t value;
	unsigned int n;
	uint64_t gpa[HV_STORES];
};

struct hv_vcpu {
	int fd;
	uint32_t as_id;
	void *below;		      /* of the backend */
	int (*on_full)(void *opaque); /* KVM_EXIT_DIRTY_RING_FULL, on the vCPU's thread */
	void *opaque;
};

struct hv;

struct hv_backend {
	void (*open)(struct hv *hv, const struct model_options *model);
	void (*close)(struct hv *hv);
	void (*add_vcpu)(struct hv *hv, struct hv_vcpu *vcpu);
	/* A store where there is no memory has no effect. */
	void (*store)(struct hv *hv, struct hv_vcpu *vcpu, const struct hv_stores *stores);
	/* The vCPU stays outside the guest. */
	void (*leave)(struct hv *hv, struct hv_vcpu *vcpu);
	/* The kernel writes, with no vCPU. NULL: cannot be provoked. */
	void (*kernel_store)(struct hv *hv, uint64_t gpa, uint64_t value);
};

struct hv {
	const struct hv_backend *backend;
	const struct dl_os *os; /* NULL: the system's */
	void *below;
	int vm_fd;
	int probe_fd; /* for dl_probe() */
	uint32_t page_bytes;
	uint64_t base_gpa; /* guest addresses are free from here on */
	bool has_second_space;
};

extern const struct hv_backend hv_model, hv_kvm;

/* Ends the program if an action of the VMM or of the hypervisor failed. */
void hv_check(int result, const char *what);

#endif
