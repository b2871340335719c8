/* SPDX-License-Identifier: MIT */
#include "sides.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RING_PAGE    64
#define MEMORY_PAGES (SIDE_SLOTS * SIDE_SLOT_PAGES)

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

static int side_ioctl(struct side *side, int fd, unsigned long request, void *arg)
{
	const struct dl_os *os;
	int r;

	if (side->model) {
		os = model_os(side->model);
		return os->ioctl(os->opaque, fd, request, arg);
	}
	r = ioctl(fd, request, arg);
	return r < 0 ? -errno : r;
}

static int side_mmap(struct side *side, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		     int flags, void **addr)
{
	const struct dl_os *os;

	if (side->model) {
		os = model_os(side->model);
		return os->mmap(os->opaque, fd, offset_bytes, bytes, prot, flags, addr);
	}
	*addr = mmap(NULL, bytes, prot, flags, fd, (off_t)offset_bytes);
	return *addr == MAP_FAILED ? -errno : 0;
}

static void side_munmap(struct side *side, void *addr, size_t bytes)
{
	if (side->model)
		model_os(side->model)->munmap(model_os(side->model)->opaque, addr, bytes);
	else
		munmap(addr, bytes);
}

static void *new_memory(size_t bytes)
{
	void *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	/* With a huge page the real kernel would map and unmap more than the script says. */
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	return memory;
}

int side_open(struct side *side, const struct model_options *options)
{
	int r = 0;

	memset(side, 0, sizeof(*side));
	side->machine.kvm_fd = side->machine.vm_fd = -1;
	side->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	side->memory = new_memory(MEMORY_PAGES * side->page_bytes);
	side->guest_memory = new_memory(GUEST_SLOT_BYTES);
	if (!side->memory || !side->guest_memory)
		return -ENOMEM;
	if (!options) {
		r = machine_open(&side->machine);
		side->vm = side->machine.vm_fd;
		return r;
	}
	side->model = model_new(options);
	if (!side->model)
		return -ENOMEM;
	side->vm = model_vm_create(side->model);
	return side->vm < 0 ? side->vm : 0;
}

void side_close(struct side *side)
{
	uint32_t i;

	for (i = 0; i < side->vcpu_count; i++)
		if (side->vcpus[i].cells)
			side_munmap(side, side->vcpus[i].cells, side->ring_bytes);
	if (side->model)
		model_free(side->model);
	else
		machine_close(&side->machine);
	if (side->guest_memory)
		munmap(side->guest_memory, GUEST_SLOT_BYTES);
	if (side->memory)
		munmap(side->memory, MEMORY_PAGES * side->page_bytes);
}

static int set_region(struct side *side, uint32_t slot, uint32_t flags, uint64_t gpa,
		      uint64_t bytes, const char *hva)
{
	struct kvm_userspace_memory_region region = { .slot = slot,
						      .flags = flags,
						      .guest_phys_addr = gpa,
						      .memory_size = bytes,
						      .userspace_addr = (uintptr_t)hva };

	return side_ioctl(side, side->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static int add_guest(struct side *side)
{
	int r;

	if (side->has_guest)
		return -EEXIST;
	if (!side->model)
		r = machine_load_guest(&side->machine);
	else
		r = set_region(side, MACHINE_GUEST_SLOT, 0, 0, GUEST_SLOT_BYTES,
			       side->guest_memory);
	side->has_guest = !r;
	return r;
}

static int add_vcpu(struct side *side)
{
	struct side_vcpu *vcpu = &side->vcpus[side->vcpu_count];
	int r;

	if (side->vcpu_count == SIDE_VCPUS)
		return -E2BIG;
	if (side->model) {
		vcpu->fd = model_vcpu_create(side->model, side->vm);
		r = vcpu->fd < 0 ? vcpu->fd : 0;
	} else {
		r = machine_add_vcpu(&side->machine, &vcpu->real);
		vcpu->fd = r ? -1 : vcpu->real->fd;
	}
	if (r)
		return r;
	side->vcpu_count++;
	if (!side->ring_bytes)
		return 0;
	return side_mmap(side, vcpu->fd, RING_PAGE * side->page_bytes, side->ring_bytes,
			 PROT_READ | PROT_WRITE, MAP_SHARED, (void **)&vcpu->cells);
}

static int enable(struct side *side, const struct op *op)
{
	struct kvm_enable_cap cap = { .cap = (uint32_t)op->a,
				      .flags = (uint32_t)op->c,
				      .args = { op->b } };
	int r = side_ioctl(side, side->vm, KVM_ENABLE_CAP, &cap);

	if (!r && (op->a == KVM_CAP_DIRTY_LOG_RING || op->a == KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		side->ring_bytes = (uint32_t)op->b;
	return r;
}

static bool is_emulated(const struct side *side, const struct side_vcpu *vcpu)
{
	return vcpu->mode == GUEST_KERNEL && side->emulates_kernel_mode;
}

static int store_model(struct side *side, struct side_vcpu *vcpu)
{
	if (is_emulated(side, vcpu))
		return model_vcpu_write_unchecked(side->model, vcpu->fd, 0, vcpu->gpa, &vcpu->value,
						  sizeof(vcpu->value));
	return model_vcpu_write(side->model, vcpu->fd, 0, vcpu->gpa, &vcpu->value,
				sizeof(vcpu->value));
}

/* A store to an address without memory ends KVM_RUN; the job continues with the next store. */
static int run_model(struct side *side, struct side_vcpu *vcpu)
{
	bool inside = false, emulated = is_emulated(side, vcpu);
	int r;

	for (;;) {
		if (!inside || (emulated && vcpu->left == vcpu->looks_with_left)) {
			r = model_vcpu_enter(side->model, vcpu->fd);
			if (r)
				return r;
		}
		inside = true;
		if (!vcpu->left)
			break;
		r = store_model(side, vcpu);
		if (r == -EFAULT) {
			vcpu->lost_accesses++;
			model_vcpu_exit(side->model, vcpu->fd, KVM_EXIT_MMIO);
			inside = false;
		} else if (r) {
			return r;
		}
		vcpu->left--;
		vcpu->gpa += vcpu->stride_bytes;
	}
	model_vcpu_exit(side->model, vcpu->fd, KVM_EXIT_IO);
	return 0;
}

static int run_real(struct side_vcpu *vcpu, const struct guest_job *job)
{
	unsigned long long before = atomic_load(&vcpu->real->lost_accesses);
	int end = job ? machine_run(vcpu->real, job) : machine_continue(vcpu->real);
	int r;

	vcpu->lost_accesses = atomic_load(&vcpu->real->lost_accesses) - before;
	if (end < 0)
		return end;
	if (end != MACHINE_FULL)
		return end == MACHINE_DONE ? 0 : -EIO;
	r = guest_stores_left(vcpu->fd, &vcpu->looks_with_left);
	return r < 0 ? r : KVM_EXIT_DIRTY_RING_FULL;
}

static int run_job(struct side *side, const struct op *op)
{
	struct side_vcpu *vcpu = &side->vcpus[op->a];
	const struct guest_job job = { .program = GUEST_WRITE,
				       .mode = (enum guest_mode)op->f,
				       .gpa = GUEST_DATA_GPA + op->b * side->page_bytes,
				       .count = op->c,
				       .stride_bytes = op->d * side->page_bytes,
				       .value = op->e };

	if (!side->model)
		return run_real(vcpu, &job);
	vcpu->mode = job.mode;
	vcpu->gpa = job.gpa;
	vcpu->left = job.count;
	vcpu->stride_bytes = job.stride_bytes;
	vcpu->value = job.value;
	return run_model(side, vcpu);
}

/* Runs a new job, or the rest of the last one. */
static int run_guest(struct side *side, const struct op *op, struct answer *answer)
{
	struct side_vcpu *vcpu = &side->vcpus[op->a];
	int r;

	vcpu->lost_accesses = 0;
	if (!side->model)
		vcpu->looks_with_left = UINT64_MAX;
	if (op->kind == OP_WRITE)
		r = run_job(side, op);
	else if (side->model)
		r = run_model(side, vcpu);
	else
		r = run_real(vcpu, NULL);
	vcpu->unfinished = r == KVM_EXIT_DIRTY_RING_FULL;
	answer->count = 1;
	answer->values[0] = vcpu->lost_accesses;
	return r;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static struct kvm_dirty_gfn *cell_at(struct side *side, struct side_vcpu *vcpu, uint64_t ahead)
{
	uint32_t entries = side->ring_bytes / (uint32_t)sizeof(*vcpu->cells);

	return &vcpu->cells[(vcpu->head + (uint32_t)ahead) & (entries - 1)];
}

static uint32_t without_duplicates(uint64_t *values, uint32_t count)
{
	uint32_t i, unique = 0;

	qsort(values, count, sizeof(values[0]), by_value);
	for (i = 0; i < count; i++)
		if (!i || values[i] != values[unique - 1])
			values[unique++] = values[i];
	return unique;
}

/* Reads the ring as the kernel's documentation prescribes. */
static int take(struct side *side, const struct op *op, struct answer *answer)
{
	struct side_vcpu *vcpu = &side->vcpus[op->a];
	uint64_t *values = answer->values;
	uint32_t count = 0;

	if (!vcpu->cells)
		return -ENODEV;
	while (count < op->b && count < SIDE_MAX_VALUES) {
		struct kvm_dirty_gfn *cell = cell_at(side, vcpu, 0);

		if (__atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		values[count++] = (uint64_t)cell->slot << 40 | cell->offset;
		__atomic_store_n(&cell->flags, KVM_DIRTY_GFN_F_DIRTY | KVM_DIRTY_GFN_F_RESET,
				 __ATOMIC_RELEASE);
		vcpu->head++;
		side->released++;
	}
	answer->count = op->c ? count : without_duplicates(values, count);
	return 0;
}

static int store_flags(struct side *side, const struct op *op)
{
	struct side_vcpu *vcpu = &side->vcpus[op->a];

	if (!vcpu->cells)
		return -ENODEV;
	__atomic_store_n(&cell_at(side, vcpu, op->b)->flags, (uint32_t)op->c, __ATOMIC_RELEASE);
	return 0;
}

static int reset(struct side *side)
{
	int r = side_ioctl(side, side->vm, KVM_RESET_DIRTY_RINGS, NULL);

	if (r < 0)
		return r;
	r -= (int)side->released;
	side->released = 0;
	return r;
}

static int get(struct side *side, const struct op *op, struct answer *answer)
{
	struct kvm_dirty_log log = { .slot = (uint32_t)op->a,
				     .dirty_bitmap = op->b ? (void *)8 : answer->values };
	int r;

	/* To see that GET leaves the words after the bitmap alone. */
	memset(answer->values, 0xa5, SIDE_BITMAP_WORDS * sizeof(answer->values[0]));
	answer->count = SIDE_BITMAP_WORDS;
	r = side_ioctl(side, side->vm, KVM_GET_DIRTY_LOG, &log);
	return r;
}

static int clear(struct side *side, const struct op *op)
{
	uint64_t words[SIDE_BITMAP_WORDS * 4];
	struct kvm_clear_dirty_log log = { .slot = (uint32_t)op->a,
					   .first_page = op->b,
					   .num_pages = (uint32_t)op->c,
					   .dirty_bitmap = words };
	size_t i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		words[i] = i % 2 ? op->d ^ op->e : op->d;
	return side_ioctl(side, side->vm, KVM_CLEAR_DIRTY_LOG, &log);
}

static int system_fd(struct side *side)
{
	return side->model ? model_system_fd(side->model) : side->machine.kvm_fd;
}

static int any_ioctl(struct side *side, const struct op *op)
{
	int fd = op->a == 0 ? system_fd(side) : op->a == 1 ? side->vm : side->vcpus[0].fd;

	return side_ioctl(side, fd, op->b, NULL);
}

static int any_mmap(struct side *side, const struct op *op)
{
	size_t bytes = op->c * side->page_bytes;
	void *mapped;
	int r = side_mmap(side, side->vcpus[op->a].fd, op->b * side->page_bytes, bytes, (int)op->d,
			  (int)op->e, &mapped);

	if (!r)
		side_munmap(side, mapped, bytes);
	return r;
}

/* Checks what the operation requires and a script may lack. Returns 0 or an error. */
static int missing(const struct side *side, const struct op *op)
{
	bool runs = op->kind == OP_WRITE || op->kind == OP_CONTINUE;

	if ((runs || op->kind == OP_MMAP) && op->a >= side->vcpu_count)
		return -ENODEV;
	if (op->kind == OP_IOCTL && op->a == 2 && !side->vcpu_count)
		return -ENODEV;
	if (runs && !side->has_guest)
		return -ENOEXEC;
	if (op->kind == OP_WRITE && !op->c)
		return -EINVAL;
	return op->kind == OP_CONTINUE && !side->vcpus[op->a].unfinished ? -ENODATA : 0;
}

void side_do(struct side *side, const struct op *op, struct answer *answer)
{
	uint64_t page_bytes = side->page_bytes;
	int r = missing(side, op);

	answer->count = 0;
	answer->result = r;
	if (r)
		return;
	switch (op->kind) {
	case OP_CHECK:
		r = side_ioctl(side, op->b ? system_fd(side) : side->vm, KVM_CHECK_EXTENSION,
			       (void *)(uintptr_t)op->a);
		break;
	case OP_ENABLE:
		r = enable(side, op);
		break;
	case OP_GUEST:
		r = add_guest(side);
		break;
	case OP_VCPU:
		r = add_vcpu(side);
		break;
	case OP_REGION:
		r = set_region(side, (uint32_t)op->a, (uint32_t)op->b,
			       GUEST_DATA_GPA + op->c * page_bytes, op->d * page_bytes,
			       side->memory + op->e * page_bytes);
		break;
	case OP_WRITE:
	case OP_CONTINUE:
		r = run_guest(side, op, answer);
		break;
	case OP_TAKE:
		r = take(side, op, answer);
		break;
	case OP_FLAGS:
		r = store_flags(side, op);
		break;
	case OP_SKIP:
		side->vcpus[op->a].head += (uint32_t)op->b;
		break;
	case OP_RESET:
		r = reset(side);
		break;
	case OP_RESET_RAW:
		r = side_ioctl(side, side->vm, KVM_RESET_DIRTY_RINGS, NULL);
		break;
	case OP_GET:
		r = get(side, op, answer);
		break;
	case OP_CLEAR:
		r = clear(side, op);
		break;
	case OP_IOCTL:
		r = any_ioctl(side, op);
		break;
	case OP_MMAP:
		r = any_mmap(side, op);
		break;
	case OP_KINDS:
		r = -EINVAL;
	}
	answer->result = r;
}
