/* SPDX-License-Identifier: MIT */
/* dl_probe() and dl_log_open() with any options, checked against the choice that they must make. */
#include "calls.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { ENTRY_BYTES = 16, DEFAULT_ENTRIES = 16384, SAFE_ENTRIES = 1024, WHY_BYTES = 300 };

/* The options, with the tail that a larger struct of a later release would have. */
struct long_options {
	struct dl_options options;
	uint8_t tail[TAIL_BYTES];
};

struct choice {
	int error;
	uint32_t mode, ring_entries;
	bool backup;
};

static bool options_sound(const struct dl_options *o)
{
	const struct dl_os *os = o->os;

	if (o->flags || o->reserved || o->mode > DL_MODE_BITMAP || o->backup > DL_BACKUP_REQUIRED ||
	    o->ring_entries & (o->ring_entries - 1))
		return false;
	return !os || (os->size == sizeof(*os) && !os->reserved &&
		       os->arch <= DL_OS_ARCH_RING_NEEDS_BACKUP && os->ioctl && os->mmap &&
		       os->munmap && os->signal_mask && os->page_bytes >= 4096 &&
		       !(os->page_bytes & (os->page_bytes - 1)));
}

static bool ring_possible(const struct world *w, const struct dl_options *o)
{
	bool has_backup = w->kernel.has & MODEL_HAS_BACKUP;

	if (!(w->kernel.has & (MODEL_HAS_RING_TSO | MODEL_HAS_RING_ACQ_REL)))
		return false;
	if (o->backup == DL_BACKUP_REQUIRED)
		return has_backup;
	return o->os->arch == DL_OS_ARCH_RING_ALONE_SAFE ||
	       (has_backup && o->backup != DL_BACKUP_OFF);
}

static struct choice expected_choice(const struct world *w, const struct long_options *any)
{
	static const uint8_t zeros[TAIL_BYTES];
	const struct dl_options *o = &any->options;
	struct choice choice = { .mode = DL_MODE_BITMAP };
	uint32_t most = w->kernel.ring_max_bytes / ENTRY_BYTES;

	if (o->size < sizeof(*o))
		choice.error = -EINVAL;
	else if (memcmp(any->tail, zeros, o->size - sizeof(*o)))
		choice.error = -E2BIG;
	else if (!options_sound(o))
		choice.error = -EINVAL;
	else if (!o->os)
		choice.error = -EBADF;
	if (choice.error || o->mode == DL_MODE_BITMAP)
		return choice;
	if (!ring_possible(w, o)) {
		choice.error = o->mode == DL_MODE_RING ? -EOPNOTSUPP : 0;
		return choice;
	}
	if (o->ring_entries > most)
		choice.error = -E2BIG;
	else if (o->ring_entries && o->ring_entries < o->os->page_bytes / ENTRY_BYTES)
		choice.error = -EINVAL;
	choice.mode = DL_MODE_RING;
	choice.ring_entries = o->ring_entries ? o->ring_entries : DEFAULT_ENTRIES;
	if (choice.ring_entries > most)
		choice.ring_entries = most;
	choice.backup = w->kernel.has & MODEL_HAS_BACKUP && o->backup != DL_BACKUP_OFF;
	return choice;
}

/* The kernel refuses rings on opening: a vCPU exists, or its minimum is larger. */
static void after_refusal(const struct dl_options *o, struct choice *choice)
{
	if (o->mode == DL_MODE_AUTO) {
		*choice = (struct choice){ .mode = DL_MODE_BITMAP };
		return;
	}
	choice->error = choice->ring_entries >= SAFE_ENTRIES ? -EBUSY : -EINVAL;
}

static void choose_kernel(struct world *w)
{
	static const uint32_t arches[] = { DL_OS_ARCH_RING_ALONE_SAFE,
					   DL_OS_ARCH_RING_NEEDS_BACKUP };
	struct input *in = &w->in;
	uint8_t has = input_u8(in), shape = input_u8(in);
	uint32_t ring_max_bytes = shape & 4 ? 1u << 16 : 1u << 14;

	w->kernel = (struct model_options){
		.has = has & 31 ? has & 31 : MODEL_HAS_NOTHING,
		.page_bytes = shape & 1 ? 16384 : 4096,
		.arch = arches[shape >> 1 & 1],
		.ring_max_bytes = ring_max_bytes,
		.write_order = (shape >> 3) % 3,
		.pml_entries = shape & 64 ? 16 : 0,
		.batch_writes = shape & 128 ? 3 : 1,
		.virtual_clock = true,
		.thread_clocks = (has ^ shape) & 1,
		.delete_unmaps_all = has & 32,
		/* Whole rings of any size: the library finds its first entry in the first cell. */
		.ring_first_index =
			has & 64 ? 0 - ring_max_bytes / (uint32_t)sizeof(struct kvm_dirty_gfn) : 0,
		.slot_ids = SLOT_IDS,
		.address_spaces = ADDRESS_SPACES,
	};
	/* INITIALLY_SET is a bit of the MANUAL_PROTECT capability. */
	if (!(w->kernel.has & MODEL_HAS_MANUAL_PROTECT))
		w->kernel.has &= ~(uint32_t)MODEL_HAS_INITIALLY_SET;
	if (!w->kernel.has)
		w->kernel.has = MODEL_HAS_NOTHING;
	/* Most kernels can watch. */
	if (!(has & 128))
		w->kernel.has |= MODEL_HAS_WATCH;
	w->page_bytes = w->kernel.page_bytes;
	w->model = model_new(&w->kernel);
	expect(w->model, "no memory");
	w->vm_fd = model_vm_create(w->model);
	expect(w->vm_fd > 0, "no VM");
}

static void choose_os(struct world *w, struct dl_os *os)
{
	uint8_t how = input_u8(&w->in);

	*os = *model_os(w->model);
	if (how & 128)
		os->size = (uint32_t)input_wild(&w->in);
	if (how & 64)
		os->reserved = input_u8(&w->in);
	if (how & 32)
		os->arch = DL_OS_ARCH_RING_ALONE_SAFE + input_u8(&w->in) % 4;
	if (how & 16)
		os->munmap = NULL;
	if (how & 8)
		os->page_bytes += 8;
}

static void choose_options(struct world *w, struct long_options *any, const struct dl_os *os)
{
	struct dl_options *o = &any->options;
	struct input *in = &w->in;
	uint8_t how = input_u8(in);

	memset(any, 0, sizeof(*any));
	o->size = sizeof(*o);
	o->os = how & 1 ? NULL : os;
	o->mode = input_u8(in) % 4;
	o->backup = input_u8(in) % 4;
	o->ring_entries = 1u << input_u8(in) % 24;
	o->idle_ns = (uint64_t)how << (how & 63);
	if (how & 2)
		o->ring_entries = (uint32_t)input_wild(in);
	if (how & 4)
		o->size = input_u8(in) % (sizeof(*any) + 1);
	if (how & 8)
		any->tail[input_u8(in) % TAIL_BYTES] = input_u8(in);
	if (how & 16)
		o->flags = (uint32_t)input_wild(in);
	if (how & 32)
		o->reserved = (uint32_t)input_wild(in);
	if (how & 64) {
		o->mode = (uint32_t)input_wild(in);
		o->backup = (uint32_t)input_wild(in);
	}
	if (how & 128)
		o->idle_ns = input_wild(in);
}

static void expect_config(const struct dl_config *is, const struct choice *choice)
{
	expect(is->mode == choice->mode && is->backup == choice->backup &&
		       is->ring_entries == choice->ring_entries && !is->reserved,
	       "mode %u, backup %u, %u entries", is->mode, is->backup, is->ring_entries);
}

/* The reason is terminated and within its buffer of that many bytes. */
static void expect_reason(const char *why, size_t bytes, bool failed)
{
	expect(!bytes || memchr(why, '\0', bytes), "the reason is not terminated");
	expect(why[bytes] == '#', "the reason is written past its buffer");
	expect(!failed || bytes < 2 || *why, "a failure without a reason");
}

static void probe(struct world *w, const struct long_options *any, const struct choice *choice)
{
	struct dl_config config = { .size = sizeof(config) };
	uint8_t how = input_u8(&w->in);
	size_t why_bytes = how & 15 ? 80u * (how & 15) / 16 : 0;
	char why[WHY_BYTES];
	int fd = how & 16 ? model_system_fd(w->model) : w->vm_fd, r;

	memset(why, '#', sizeof(why));
	if (how & 32)
		config.size = input_u8(&w->in) % sizeof(config);
	r = dl_probe(fd, &any->options, &config, why, why_bytes);
	expect_reason(why, why_bytes, r);
	/* With two mistakes, either error is right. */
	expect(r == (how & 32 ? -EINVAL : choice->error) || (r && r == choice->error),
	       "%d, expected %d", r, choice->error);
	if (!r)
		expect_config(&config, choice);
}

/* A slot that exists while the log is opened. */
static void early_slot(struct world *w, bool exists)
{
	struct dl_slot slot = { .gpa = UINT64_C(1) << 40, .hva = (uintptr_t)w->arena };

	expect(!world_region(w, &slot, exists ? w->page_bytes : 0, 0), "the slot is not set");
}

/* Creates a vCPU or a slot before the log is opened, which can make the kernel refuse rings. */
static void add_before_open(struct world *w, const struct dl_options *o, struct choice *choice,
			    bool has_slot, bool has_vcpu)
{
	uint32_t least = 64 + w->kernel.pml_entries;

	if (has_vcpu)
		expect(model_vcpu_create(w->model, w->vm_fd) > 0, "no vCPU");
	if (has_slot)
		early_slot(w, true);
	if (choice->error || choice->mode != DL_MODE_RING)
		return;
	if (has_vcpu || choice->ring_entries < least)
		after_refusal(o, choice);
	else if (has_slot && choice->backup)
		choice->error = -EBUSY;
}

/* Opens the log with any options. On success this is the log that is fuzzed. */
static void try_to_open(struct world *w)
{
	struct long_options any;
	struct choice choice;
	struct dl_os os;
	char why[WHY_BYTES];
	uint64_t enabled;
	uint8_t early;
	int r;

	choose_os(w, &os);
	choose_options(w, &any, &os);
	choice = expected_choice(w, &any);
	probe(w, &any, &choice);
	early = input_u8(&w->in) % 16;
	add_before_open(w, &any.options, &choice, early == 2, early == 1);
	enabled = model_calls(w->model, KVM_ENABLE_CAP);
	memset(why, '#', sizeof(why));
	/* The log needs a table that outlives it. */
	if (any.options.os && !choice.error) {
		if (os.arch != model_os(w->model)->arch)
			return;
		any.options.os = model_os(w->model);
	}
	r = dl_log_open(w->vm_fd, &any.options, &w->log, why, WHY_BYTES - 1);
	trace("open: %d, %s\n", r, why);
	if (early == 2)
		early_slot(w, false);
	expect_reason(why, WHY_BYTES - 1, r);
	expect(r == choice.error, "%d, expected %d: %s", r, choice.error, why);
	if (r) {
		expect(!w->log, "a failed open returns a log");
		expect(r == -EBUSY || choice.mode == DL_MODE_RING ||
			       model_calls(w->model, KVM_ENABLE_CAP) == enabled,
		       "a failed open has enabled a capability");
		return;
	}
	w->config.size = sizeof(w->config);
	expect(!dl_log_config(w->log, &w->config), "config");
	expect_config(&w->config, &choice);
}

static void open_plainly(struct world *w)
{
	struct dl_options options = { .size = sizeof(options), .os = model_os(w->model) };
	char why[WHY_BYTES];

	w->vm_fd = model_vm_create(w->model);
	expect(!dl_log_open(w->vm_fd, &options, &w->log, why, sizeof(why)), "%s", why);
	w->config.size = sizeof(w->config);
	expect(!dl_log_config(w->log, &w->config), "config");
}

static void open_arena(struct world *w)
{
	static uint8_t *arena;

	if (!arena)
		arena = mmap(NULL, 2 * ARENA_BYTES + 65536, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	expect(arena != MAP_FAILED, "no memory");
	w->arena = (uint8_t *)(((uintptr_t)arena + 65535) & ~(uintptr_t)65535);
	w->alias = w->arena + ARENA_BYTES;
	for (uint64_t at = 0; at < ARENA_BYTES; at += 4096)
		*(uint64_t *)(void *)(w->arena + at) = 0;
	memset(w->excused, true, sizeof(w->excused));
}

void world_open(struct world *w)
{
	open_arena(w);
	choose_kernel(w);
	try_to_open(w);
	if (!w->log)
		open_plainly(w);
	for (int i = 0; i < VCPUS; i++) {
		w->vcpu_fds[i] = model_vcpu_create(w->model, w->vm_fd);
		expect(!dl_vcpu_add(w->log, w->vcpu_fds[i], FIRST_COOKIE + (uint64_t)i, 0,
				    &w->vcpus[i]),
		       "vCPU %d", i);
	}
}
