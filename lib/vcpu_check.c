/* SPDX-License-Identifier: MIT */
/* Compares the vCPUs of this process with those that were added. Empty without check_vcpus. */

#include "vcpu_check.h"

#ifdef DLI_CHECK_VCPUS

#include <dirent.h>
#include <errno.h>
#include <linux/kcmp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Above KVM's limit on every architecture. Higher ids are not counted. */
#define ID_LIMIT 0xffffu

/*
 * The 32 bits that a failure has for a slot hold the lowest missing id, and a bit for each of the
 * 16 ids after it.
 */
#define LATER_IDS 16u

struct descriptor {
	int fd;
	uint32_t id;
};

struct descriptors {
	struct descriptor *all;
	size_t n, room;
};

/* By KVM's id: the vCPUs of all logs of this process. */
static _Atomic uint32_t added[ID_LIMIT];

/* False if the link is not a vCPU's. */
static bool read_id(const char *path, uint32_t *id)
{
	char link[64];
	ssize_t n = readlink(path, link, sizeof(link) - 1);

	if (n <= 0)
		return false;
	link[n] = '\0';
	return sscanf(link, "anon_inode:kvm-vcpu:%u", id) == 1 && *id < ID_LIMIT;
}

void dli_vcpu_check_added(struct dl_vcpu *vcpu, int vcpu_fd)
{
	int before = errno;
	char path[32];
	uint32_t id;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", vcpu_fd);
	if (!vcpu->check_id && read_id(path, &id)) {
		vcpu->check_id = id + 1;
		atomic_fetch_add_explicit(&added[id], 1, memory_order_relaxed);
	}
	errno = before;
}

void dli_vcpu_check_forget(struct dl_vcpu *vcpu)
{
	if (vcpu->check_id)
		atomic_fetch_sub_explicit(&added[vcpu->check_id - 1], 1, memory_order_relaxed);
	vcpu->check_id = 0;
}

void dli_vcpu_check_forget_all(const struct dli_vcpu_list *vcpus)
{
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(vcpus, vcpu));)
		dli_vcpu_check_forget(vcpu);
}

static int append(struct descriptors *found, int fd, uint32_t id)
{
	size_t room = found->room ? 2 * found->room : 64;
	struct descriptor *all;

	if (found->n == found->room) {
		all = realloc(found->all, room * sizeof(*all));
		if (!all)
			return -ENOMEM;
		found->all = all;
		found->room = room;
	}
	found->all[found->n++] = (struct descriptor){ .fd = fd, .id = id };
	return 0;
}

static int find_descriptors(struct descriptors *found)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	char path[300];
	uint32_t id;
	int r = 0;

	if (!dir)
		return errno == ENOMEM ? -ENOMEM : 0;
	while (!r && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
		if (read_id(path, &id))
			r = append(found, atoi(entry->d_name), id);
	}
	closedir(dir);
	return r;
}

static int by_id(const void *one, const void *other)
{
	const struct descriptor *a = one, *b = other;

	return a->id < b->id ? -1 : a->id > b->id;
}

/* True also where the kernel does not say: a vCPU that may have been added is not reported. */
static bool may_be_same(int a, int b)
{
	pid_t self = getpid();

	return syscall(SYS_kcmp, self, self, KCMP_FILE, (long)a, (long)b) <= 0;
}

static bool is_duplicate(const struct descriptors *found, size_t i)
{
	const struct descriptor *all = found->all;

	for (size_t j = i; j > 0 && all[j - 1].id == all[i].id; j--)
		if (may_be_same(all[j - 1].fd, all[i].fd))
			return true;
	return false;
}

static int note_missing(uint32_t *missing, uint32_t id, bool first)
{
	uint32_t lowest = first ? id : *missing >> LATER_IDS;

	if (first)
		*missing = id << LATER_IDS;
	else if (id > lowest && id - lowest <= LATER_IDS)
		*missing |= 1u << (id - lowest - 1);
	return -EBUSY;
}

static int compare(const struct descriptors *found, uint32_t *missing)
{
	const struct descriptor *all = found->all;
	uint32_t open = 0;
	int r = 0;

	for (size_t i = 0; i < found->n; i++) {
		uint32_t id = all[i].id;

		if (i && all[i - 1].id != id)
			open = 0;
		if (!is_duplicate(found, i) &&
		    ++open > atomic_load_explicit(&added[id], memory_order_relaxed))
			r = note_missing(missing, id, !r);
	}
	return r;
}

/* No function of the library is a cancellation point; those that read directories may be. */
int dli_vcpu_check(uint32_t *missing)
{
	struct descriptors found = { 0 };
	int before = errno, state, r;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	r = find_descriptors(&found);
	pthread_setcancelstate(state, NULL);
	if (!r && found.n) {
		qsort(found.all, found.n, sizeof(*found.all), by_id);
		r = compare(&found, missing);
	}
	free(found.all);
	errno = before;
	return r;
}

void dli_vcpu_check_text(uint32_t missing, char *text)
{
	uint32_t lowest = missing >> LATER_IDS;

	/* 17 ids of at most five digits fit. */
	text += sprintf(text, "%u", lowest);
	for (uint32_t i = 0; i < LATER_IDS; i++)
		if (missing >> i & 1)
			text += sprintf(text, ", %u", lowest + 1 + i);
}

#endif
