/* SPDX-License-Identifier: MIT */
/* The model's capabilities: which there are, the order of enabling them, errno values. */
#include "fixture.h"

#define CAP_RING     KVM_CAP_DIRTY_LOG_RING
#define CAP_ACQ_REL  KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define CAP_BACKUP   KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define CAP_MANUAL   KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
#define ALL_BUT_RING (MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET)
#define EVERYTHING   (31)

static void extensions(void **unused)
{
	const struct model_options arm = { .has = EVERYTHING & ~MODEL_HAS_RING_TSO,
					   .slot_ids = 509,
					   .address_spaces = 1 };
	struct world w;
	int fds[2], i;

	(void)unused;
	world_open(&w, NULL);
	fds[0] = w.vm;
	fds[1] = model_system_fd(w.model);
	for (i = 0; i < 2; i++) {
		assert_int_equal(check(&w, fds[i], CAP_RING), 1 << 20);
		assert_int_equal(check(&w, fds[i], CAP_ACQ_REL), 1 << 20);
		assert_int_equal(check(&w, fds[i], CAP_BACKUP), 0);
		assert_int_equal(check(&w, fds[i], CAP_MANUAL), 3);
		assert_int_equal(check(&w, fds[i], KVM_CAP_NR_MEMSLOTS), 32764);
		assert_int_equal(check(&w, fds[i], KVM_CAP_MULTI_ADDRESS_SPACE), 2);
		assert_int_equal(check(&w, fds[i], 9999), 0);
	}
	world_close(&w);

	world_open(&w, &arm);
	assert_int_equal(check(&w, w.vm, CAP_RING), 0);
	assert_int_equal(check(&w, w.vm, CAP_ACQ_REL), 1 << 20);
	assert_int_equal(check(&w, w.vm, CAP_BACKUP), 1);
	assert_int_equal(check(&w, w.vm, KVM_CAP_NR_MEMSLOTS), 509);
	assert_int_equal(check(&w, w.vm, KVM_CAP_MULTI_ADDRESS_SPACE), 0);
	assert_int_equal(enable(&w, CAP_RING, RING_BYTES, 0), -EINVAL);
	world_close(&w);
}

static void kinds_of_fd(void **unused)
{
	const struct model_options arm = { .arch = DL_OS_ARCH_RING_NEEDS_BACKUP };
	unsigned long foreign = _IO('T', 0x42);
	struct world w;
	int vcpu, system_fd, new_vm;
	void *mapped;

	(void)unused;
	world_open(&w, NULL);
	vcpu = model_vcpu_create(w.model, w.vm);
	system_fd = model_system_fd(w.model);
	assert_int_equal(call(&w, system_fd, KVM_GET_API_VERSION, NULL), 12);
	assert_int_equal(call(&w, w.vm, KVM_GET_API_VERSION, NULL), -ENOTTY);
	assert_int_equal(call(&w, vcpu, KVM_GET_API_VERSION, NULL), -EINVAL);
	assert_int_equal(call(&w, vcpu, KVM_CHECK_EXTENSION, NULL), -EINVAL);
	assert_int_equal(call(&w, system_fd, foreign, NULL), -EINVAL);
	assert_int_equal(call(&w, w.vm, foreign, NULL), -ENOTTY);
	assert_int_equal(call(&w, vcpu, foreign, NULL), -EINVAL);
	assert_int_equal(call(&w, vcpu + 1, foreign, NULL), -EBADF);
	assert_int_equal(call(&w, 0, KVM_CHECK_EXTENSION, NULL), -EBADF);
	assert_int_equal(call(&w, -1, KVM_CHECK_EXTENSION, NULL), -EBADF);
	assert_int_equal(call(&w, w.vm, KVM_ENABLE_CAP, NULL), -EFAULT);
	assert_int_equal(
		w.os->mmap(w.os->opaque, w.vm, 0, PAGE_BYTES, PROT_READ, MAP_SHARED, &mapped),
		-ENODEV);
	new_vm = call(&w, system_fd, KVM_CREATE_VM, NULL);
	assert_true(new_vm > vcpu);
	assert_true(call(&w, new_vm, KVM_CREATE_VCPU, (void *)7) > new_vm);
	assert_int_equal(call(&w, new_vm, KVM_CREATE_VCPU, (void *)7), -EEXIST);
	assert_true(model_calls(w.model, KVM_CREATE_VCPU) == 2);
	world_close(&w);

	world_open(&w, &arm);
	assert_int_equal(call(&w, w.vm, foreign, NULL), -EINVAL);
	assert_int_equal(call(&w, w.vm, KVM_GET_API_VERSION, NULL), -EINVAL);
	world_close(&w);
}

struct ring_case {
	struct model_options options;
	uint32_t cap, flags;
	uint64_t bytes;
	int result;
};

static const struct ring_case ring_cases[] = {
	{ { 0 }, CAP_RING, 0, 4096, 0 },
	{ { 0 }, CAP_ACQ_REL, 0, 4096, 0 },
	{ { 0 }, CAP_ACQ_REL, 1, 4096, 0 }, /* flags are ignored */
	{ { 0 }, CAP_ACQ_REL, 0, 0, -EINVAL },
	{ { 0 }, CAP_ACQ_REL, 0, 2048, -EINVAL },
	{ { 0 }, CAP_ACQ_REL, 0, 12288, -EINVAL },
	{ { 0 }, CAP_ACQ_REL, 0, 1 << 20, 0 },
	{ { 0 }, CAP_ACQ_REL, 0, 2 << 20, -E2BIG },
	{ { 0 }, CAP_ACQ_REL, 0, 3 << 20, -EINVAL },
	{ { 0 }, CAP_ACQ_REL, 0, 1ULL << 32, -EINVAL },
	{ { 0 }, CAP_ACQ_REL, 0, (1ULL << 32) + 4096, 0 },
	{ { .pml_entries = 512 }, CAP_ACQ_REL, 0, 4096, -EINVAL },
	{ { .pml_entries = 512 }, CAP_ACQ_REL, 0, 8192, -EINVAL },
	{ { .pml_entries = 512 }, CAP_ACQ_REL, 0, 16384, 0 },
	{ { .page_bytes = 16384 }, CAP_ACQ_REL, 0, 8192, -EINVAL },
	{ { .page_bytes = 16384 }, CAP_ACQ_REL, 0, 16384, 0 },
	{ { .page_bytes = 65536 }, CAP_ACQ_REL, 0, 32768, -EINVAL },
	{ { .ring_min_bytes = 16384 }, CAP_ACQ_REL, 0, 8192, -EINVAL },
	{ { .ring_max_bytes = 4096 }, CAP_ACQ_REL, 0, 8192, -E2BIG },
	{ { .has = ALL_BUT_RING }, CAP_RING, 0, 4096, -EINVAL },
	{ { .has = ALL_BUT_RING }, CAP_ACQ_REL, 0, 4096, -EINVAL },
	{ { .has = MODEL_HAS_NOTHING }, CAP_ACQ_REL, 0, 4096, -EINVAL },
};

static void ring_sizes(void **unused)
{
	size_t i;

	(void)unused;
	for (i = 0; i < sizeof(ring_cases) / sizeof(ring_cases[0]); i++) {
		const struct ring_case *c = &ring_cases[i];
		struct world w;

		world_open(&w, &c->options);
		if (enable(&w, c->cap, c->bytes, c->flags) != c->result)
			fail_msg("ring_cases[%zu]: the result is not %d", i, c->result);
		assert_int_equal(reset(&w) == 0, c->result == 0);
		world_close(&w);
	}
}

/* The order of enabling the ring, adding slots and creating vCPUs. */
static void ring_order(void **unused)
{
	struct world w;

	(void)unused;
	world_open(&w, NULL);
	assert_int_equal(reset(&w), -EINVAL);
	assert_int_equal(slot0(&w, 0), 0); /* slots may exist */
	assert_int_equal(enable(&w, CAP_RING, 4096, 0), 0);
	assert_int_equal(enable(&w, CAP_RING, 4096, 0), -EINVAL);
	assert_int_equal(enable(&w, CAP_ACQ_REL, 8192, 0), -EINVAL);
	assert_int_equal(enable(&w, CAP_ACQ_REL, 2 << 20, 0),
			 -E2BIG); /* the size is checked first */
	assert_int_equal(reset(&w), 0);
	world_close(&w);

	world_open(&w, NULL);
	assert_true(model_vcpu_create(w.model, w.vm) > 0);
	assert_int_equal(enable(&w, CAP_RING, 4096, 0), -EINVAL);
	assert_int_equal(reset(&w), -EINVAL);
	world_close(&w);
}

static void backup_order(void **unused)
{
	const struct model_options options = { .has = EVERYTHING };
	struct world w;

	(void)unused;
	world_open(&w, &options);
	assert_int_equal(enable(&w, CAP_BACKUP, 0, 0), -EINVAL); /* no ring yet */
	assert_int_equal(slot0(&w, 0), 0);
	assert_int_equal(enable(&w, CAP_ACQ_REL, 4096, 0), 0);
	assert_int_equal(enable(&w, CAP_BACKUP, 0, 0), -EINVAL); /* a slot exists */
	assert_int_equal(region(&w, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(enable(&w, CAP_BACKUP, 0, 1), -EINVAL); /* flags */
	assert_true(model_vcpu_create(w.model, w.vm) > 0);
	assert_int_equal(enable(&w, CAP_BACKUP, 0, 0), 0); /* a vCPU may exist */
	assert_int_equal(enable(&w, CAP_BACKUP, 0, 0), 0); /* twice is allowed */
	world_close(&w);

	world_open(&w, NULL);
	assert_int_equal(enable(&w, CAP_ACQ_REL, 4096, 0), 0);
	assert_int_equal(enable(&w, CAP_BACKUP, 0, 0), -EINVAL); /* this kernel lacks it */
	world_close(&w);
}

static void manual_protect(void **unused)
{
	const struct model_options no_set = { .has = MODEL_HAS_MANUAL_PROTECT };
	const struct model_options nothing = { .has = MODEL_HAS_NOTHING };
	struct world w;

	(void)unused;
	world_open(&w, NULL);
	assert_int_equal(enable(&w, CAP_MANUAL, 2, 0), -EINVAL); /* 2 only with 1 */
	assert_int_equal(enable(&w, CAP_MANUAL, 4, 0), -EINVAL);
	assert_int_equal(enable(&w, CAP_MANUAL, 1, 1), -EINVAL);
	assert_int_equal(enable(&w, CAP_MANUAL, 3, 0), 0);
	assert_int_equal(enable(&w, CAP_MANUAL, 0, 0), 0);
	assert_int_equal(enable(&w, CAP_MANUAL, 1, 0), 0);
	assert_int_equal(enable(&w, 12345, 0, 0), -EINVAL);
	world_close(&w);

	world_open(&w, &no_set);
	assert_int_equal(check(&w, w.vm, CAP_MANUAL), 1);
	assert_int_equal(enable(&w, CAP_MANUAL, 3, 0), -EINVAL);
	assert_int_equal(enable(&w, CAP_MANUAL, 1, 0), 0);
	world_close(&w);

	world_open(&w, &nothing);
	assert_int_equal(check(&w, w.vm, CAP_MANUAL), 0);
	assert_int_equal(enable(&w, CAP_MANUAL, 0, 0), -EINVAL);
	assert_int_equal(clear_log(&w, 0, 0, 0, NULL), -ENOTTY);
	assert_int_equal(reset(&w), -ENOTTY);
	world_close(&w);
}

static void faults_on_demand(void **unused)
{
	const struct model_fault second = {
		.request = KVM_CHECK_EXTENSION, .skip = 1, .times = 1, .error = EIO
	};
	const struct model_fault one_cap = {
		.request = KVM_ENABLE_CAP, .error = ENOMEM, .only_slot = true, .slot = CAP_MANUAL
	};
	const struct model_fault no_memory = { .request = MODEL_CALL_MMAP, .error = ENOMEM };
	struct world w;
	void *mapped;

	(void)unused;
	world_open(&w, NULL);
	assert_int_equal(model_fault(w.model, &second), 0);
	assert_int_equal(model_fault(w.model, &one_cap), 0);
	assert_int_equal(model_fault(w.model, &no_memory), 0);
	assert_int_equal(check(&w, w.vm, CAP_MANUAL), 3);
	assert_int_equal(check(&w, w.vm, CAP_MANUAL), -EIO);
	assert_int_equal(check(&w, w.vm, CAP_MANUAL), 3);
	assert_int_equal(enable(&w, CAP_MANUAL, 1, 0), -ENOMEM);
	assert_int_equal(enable(&w, CAP_RING, 4096, 0), 0);
	assert_int_equal(w.os->mmap(w.os->opaque, -1, 0, PAGE_BYTES, PROT_READ,
				    MAP_PRIVATE | MAP_ANONYMOUS, &mapped),
			 -ENOMEM);
	model_faults_clear(w.model);
	assert_int_equal(enable(&w, CAP_MANUAL, 1, 0), 0);
	assert_true(model_calls(w.model, KVM_CHECK_EXTENSION) == 3);
	assert_true(model_calls(w.model, MODEL_CALL_MMAP) == 2);
	world_close(&w);
}

static void vcpu_mappings(void **unused)
{
	const struct model_options large = { .page_bytes = 16384 };
	struct consumer c;
	struct world w;
	struct kvm_dirty_gfn *again;
	struct kvm_run *run;
	void *mapped;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	assert_int_equal(w.os->mmap(w.os->opaque, c.vcpu, 64 * PAGE_BYTES, RING_BYTES,
				    PROT_READ | PROT_WRITE, MAP_PRIVATE, &mapped),
			 -EINVAL);
	assert_int_equal(w.os->mmap(w.os->opaque, c.vcpu, 64 * PAGE_BYTES, RING_BYTES,
				    PROT_READ | PROT_EXEC, MAP_SHARED, &mapped),
			 -EINVAL);
	assert_int_equal(w.os->mmap(w.os->opaque, c.vcpu, 64 * PAGE_BYTES, RING_BYTES,
				    PROT_READ | PROT_WRITE, MAP_SHARED, (void **)&again),
			 0);
	assert_int_equal(w.os->mmap(w.os->opaque, c.vcpu, 0, PAGE_BYTES, PROT_READ, MAP_SHARED,
				    (void **)&run),
			 0);
	assert_int_equal(touch(&w, c.vcpu, 3), 0);
	assert_ptr_not_equal(again, c.cells);
	assert_int_equal(again[0].flags, KVM_DIRTY_GFN_F_DIRTY);
	assert_int_equal(again[0].offset, 3);
	model_vcpu_exit(w.model, c.vcpu, KVM_EXIT_IO);
	assert_int_equal(run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(w.os->munmap(w.os->opaque, again, RING_BYTES), 0);
	assert_int_equal(w.os->munmap(w.os->opaque, run, PAGE_BYTES), 0);
	world_close_consumer(&w, &c);

	/* With 16 KiB pages the ring is at 64 of them, and anonymous memory is aligned to them. */
	world_open(&w, &large);
	assert_int_equal((uintptr_t)w.memory % 16384, 0);
	assert_int_equal(enable(&w, CAP_ACQ_REL, 16384, 0), 0);
	c.vcpu = model_vcpu_create(w.model, w.vm);
	assert_int_equal(slot0(&w, KVM_MEM_LOG_DIRTY_PAGES), 0);
	assert_int_equal(touch(&w, c.vcpu, 5), 0);
	assert_int_equal(w.os->mmap(w.os->opaque, c.vcpu, 64 * 16384, 16384, PROT_READ, MAP_SHARED,
				    (void **)&again),
			 0);
	assert_int_equal(again[0].offset, 5);
	assert_int_equal(w.os->munmap(w.os->opaque, again, 16384), 0);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(extensions),	    cmocka_unit_test(kinds_of_fd),
		cmocka_unit_test(ring_sizes),	    cmocka_unit_test(ring_order),
		cmocka_unit_test(backup_order),	    cmocka_unit_test(manual_protect),
		cmocka_unit_test(faults_on_demand), cmocka_unit_test(vcpu_mappings),
	};

	return cmocka_run_group_tests_name("model: capabilities", tests, NULL, NULL);
}
