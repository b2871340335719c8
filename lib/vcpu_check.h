/* SPDX-License-Identifier: MIT */
#ifndef DLI_VCPU_CHECK_H
#define DLI_VCPU_CHECK_H

/*
 * For developers of VMMs (-Dcheck_vcpus=true): finds vCPUs that were never added. Their writes are
 * in rings that nobody reads, and no call fails.
 *
 * KVM names the descriptor of the vCPU with the id N "anon_inode:kvm-vcpu:N". For each N the check
 * compares the process's descriptors of that name with the vCPUs of that name that were added to
 * any log. The name does not tell the VM, so the count covers the process:
 *   - a VM without a log, whose log is closed, or whose log is in bitmap mode and was not given its
 *     vCPUs, makes the check fail, as does a vCPU that another thread is about to add;
 *   - a vCPU whose descriptor is closed, or that was added twice in bitmap mode, hides another one
 *     with the same id;
 *   - duplicates of a descriptor count once if kcmp(2) works. Where it does not, all descriptors of
 *     one name count as one, and only an id that no log knows is found;
 *   - nothing is found without /proc, or in a table of descriptors that threads do not share.
 *
 * These are the only system calls that do not go through struct dl_os: its layout is the same in
 * all builds, and the descriptors of a model kernel are in no /proc, so nothing is missing there.
 */

#include "ring/vcpu_list.h"

#ifdef DLI_CHECK_VCPUS

/* Notes that a vCPU was added; once, even if it is removed and added again. */
void dli_vcpu_check_added(struct dl_vcpu *vcpu, int vcpu_fd);

/* Forgets one vCPU, or all of a log. */
void dli_vcpu_check_forget(struct dl_vcpu *vcpu);
void dli_vcpu_check_forget_all(const struct dli_vcpu_list *vcpus);

/* -EBUSY if this process has vCPUs that were not added; *missing is then for the text. */
int dli_vcpu_check(uint32_t *missing);

/*
 * Writes the ids that dli_vcpu_check() has found missing to a buffer of that many bytes: the lowest
 * one, and those among the next 16.
 */
enum { DLI_VCPU_CHECK_TEXT_BYTES = 128 };
void dli_vcpu_check_text(uint32_t missing, char *text);

#else

static inline void dli_vcpu_check_added(struct dl_vcpu *vcpu, int vcpu_fd)
{
}

static inline void dli_vcpu_check_forget(struct dl_vcpu *vcpu)
{
}

static inline void dli_vcpu_check_forget_all(const struct dli_vcpu_list *vcpus)
{
}

static inline int dli_vcpu_check(uint32_t *missing)
{
	return 0;
}

#endif

#endif
