/* SPDX-License-Identifier: MIT */
/* dl_probe() and dl_log_open(): what they report, the order the kernel requires, every error. */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static struct machine machine = { .kvm_fd = -1, .vm_fd = -1 };

static int setup(void **state)
{
	(void)state;
	return machine_open(&machine);
}

static int teardown(void **state)
{
	machine_close(&machine);
	return rig_teardown(state);
}

#define open_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static const struct dl_options automatic = { .size = sizeof(struct dl_options) };

static struct dl_options options_for(uint32_t mode)
{
	struct dl_options options = automatic;

	options.mode = mode;
	return options;
}

/* Checks the result of dl_log_open(), that errno is unchanged, and that a reason is given. */
static void expect_open_fd(int fd, const struct dl_options *options, int expected)
{
	struct dl_log *log = NULL;
	char why[200] = "";
	int r;

	errno = ENOTTY;
	r = dl_log_open(fd, options, &log, why, sizeof(why));
	if (r != expected)
		fail_msg("dl_log_open returned %s, expected %s: %s", strerror(-r),
			 strerror(-expected), why);
	assert_int_equal(errno, ENOTTY);
	assert_true(strlen(why) > 0 && strlen(why) < sizeof(why));
	if (r)
		assert_null(log);
	dl_log_close(log);
}

static void expect_open(const struct dl_options *options, int expected)
{
	expect_open_fd(machine.vm_fd, options, expected);
}

static void expect_probe(const struct dl_options *options, int expected)
{
	char why[200] = "";

	assert_int_equal(dl_probe(machine.kvm_fd, options, NULL, why, sizeof(why)), expected);
	assert_true(strlen(why) > 0);
}

static struct dl_config probed(int fd)
{
	struct dl_config config = { .size = sizeof(config) };

	assert_int_equal(dl_probe(fd, NULL, &config, NULL, 0), 0);
	return config;
}

/* Checks with the kernel that the VM has no rings yet: enabling them must succeed. */
static void expect_rings_untouched(void)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
		.args = { 65536 * sizeof(struct kvm_dirty_gfn) },
	};

	if (!(probed(machine.kvm_fd).has & DL_HAS_RING_ACQ_REL))
		return;
	assert_int_equal(ioctl(machine.vm_fd, KVM_ENABLE_CAP, &cap), 0);
}

static void need_rings(void)
{
	struct dl_options ring = options_for(DL_MODE_RING);
	char why[200];

	if (dl_probe(machine.kvm_fd, &ring, NULL, why, sizeof(why)) == -EOPNOTSUPP)
		rig_skip("%s", why);
}

static void add_vcpu(void)
{
	assert_int_equal(machine_add_vcpu(&machine, NULL), 0);
}

static void probe_reports_what_the_kernel_reports(void **state)
{
	struct dl_config config = probed(machine.kvm_fd);
	int ring = machine_capability(&machine, KVM_CAP_DIRTY_LOG_RING);
	int acq_rel = machine_capability(&machine, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
	int manual = machine_capability(&machine, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	int bytes = acq_rel > 0 ? acq_rel : ring;

	(void)state;
	assert_int_equal(!!(config.has & DL_HAS_RING_TSO), ring > 0);
	assert_int_equal(!!(config.has & DL_HAS_RING_ACQ_REL), acq_rel > 0);
	assert_int_equal(!!(config.has & DL_HAS_BACKUP),
			 machine_capability(&machine, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) > 0);
	assert_int_equal(!!(config.has & DL_HAS_MANUAL_PROTECT), manual & 1);
	assert_int_equal(!!(config.has & DL_HAS_INITIALLY_SET), !!(manual & 2));
	assert_int_equal(config.ring_max_entries, bytes / (int)sizeof(struct kvm_dirty_gfn));
	assert_int_equal(config.reserved, 0);
	assert_true(config.mode == DL_MODE_RING || config.mode == DL_MODE_BITMAP);
	assert_int_equal(!!config.ring_entries, config.mode == DL_MODE_RING);
}

static void probe_of_system_and_vm_agree_and_change_nothing(void **state)
{
	struct dl_config of_system = probed(machine.kvm_fd);
	struct dl_config of_vm = probed(machine.vm_fd);

	(void)state;
	assert_memory_equal(&of_system, &of_vm, sizeof(of_vm));
	expect_rings_untouched();
}

static void open_does_what_probe_predicted(void **state)
{
	struct dl_config would_be = probed(machine.vm_fd);
	struct dl_config is = { .size = sizeof(is) };
	struct dl_log *log;

	(void)state;
	assert_int_equal(dl_log_open(machine.vm_fd, NULL, &log, NULL, 0), 0);
	assert_int_equal(dl_log_config(log, &is), 0);
	assert_memory_equal(&would_be, &is, sizeof(is));
	dl_log_close(log);
}

/* Hazard 15 of doc/kernel.md. */
static void page_size_is_that_of_the_host(void **state)
{
	(void)state;
	assert_int_equal(probed(machine.kvm_fd).page_bytes, sysconf(_SC_PAGESIZE));
}

/* Hazard 27 of doc/kernel.md: Intel hosts with PML require more entries than others. */
static void automatic_ring_size_fits_every_host(void **state)
{
	struct dl_options ring = options_for(DL_MODE_RING);

	(void)state;
	need_rings();
	assert_true(probed(machine.kvm_fd).ring_entries >= 1024);
	expect_open(&ring, 0);
}

static void rings_must_be_enabled_before_vcpus(void **state)
{
	struct dl_options ring = options_for(DL_MODE_RING);
	struct dl_options bitmap = options_for(DL_MODE_BITMAP);
	struct dl_config is = { .size = sizeof(is) };
	struct dl_log *log;
	char why[200];

	(void)state;
	need_rings();
	add_vcpu();
	expect_open(&ring, -EBUSY);
	expect_open(&bitmap, 0);
	assert_int_equal(dl_log_open(machine.vm_fd, &automatic, &log, why, sizeof(why)), 0);
	assert_int_equal(dl_log_config(log, &is), 0);
	assert_int_equal(is.mode, DL_MODE_BITMAP);
	assert_int_equal(is.ring_entries, 0);
	assert_non_null(strstr(why, "vCPU"));
	dl_log_close(log);
}

/* Hazard 20 of doc/kernel.md. */
static void backup_must_be_enabled_before_memslots(void **state)
{
	struct dl_options ring = options_for(DL_MODE_RING);
	bool backup = probed(machine.vm_fd).has & DL_HAS_BACKUP;

	(void)state;
	need_rings();
	assert_int_equal(machine_load_guest(&machine), 0);
	expect_open(&ring, backup ? -EBUSY : 0);
}

/* Without the backup bitmap, memslots may exist already; where a ring alone is safe. */
static void rings_without_backup_may_follow_memslots(void **state)
{
	struct dl_options ring = options_for(DL_MODE_RING);
	struct spy spy;

	(void)state;
	need_rings();
	spy_init(&spy);
	ring.os = &spy.os;
	ring.backup = DL_BACKUP_OFF;
	assert_int_equal(machine_load_guest(&machine), 0);
	spy.os.arch = DL_OS_ARCH_RING_NEEDS_BACKUP;
	expect_open(&ring, -EOPNOTSUPP);
	spy.os.arch = DL_OS_ARCH_RING_ALONE_SAFE;
	expect_open(&ring, 0);
}

static void required_backup_is_enabled_or_open_fails(void **state)
{
	struct dl_options options = options_for(DL_MODE_RING);
	struct dl_config config = { .size = sizeof(config) };
	bool has = probed(machine.kvm_fd).has & DL_HAS_BACKUP;

	(void)state;
	options.backup = DL_BACKUP_REQUIRED;
	expect_probe(&options, has ? 0 : -EOPNOTSUPP);
	if (!has)
		expect_open(&options, -EOPNOTSUPP);
	options.mode = DL_MODE_AUTO;
	assert_int_equal(dl_probe(machine.vm_fd, &options, &config, NULL, 0), 0);
	assert_int_equal(config.mode, has ? DL_MODE_RING : DL_MODE_BITMAP);
	assert_int_equal(config.backup, has ? 1 : 0);
	expect_open(&options, 0);
}

static void second_log_of_a_vm_is_refused(void **state)
{
	struct dl_options ring = options_for(DL_MODE_RING);
	struct dl_cursor *cursor;
	struct dl_log *log;

	(void)state;
	need_rings();
	assert_int_equal(dl_log_open(machine.vm_fd, &ring, &log, NULL, 0), 0);
	expect_open(&ring, -EBUSY);
	expect_open(&automatic, -EBUSY);
	assert_int_equal(dl_cursor_new(log, NULL, &cursor), 0);
	expect_open(&ring, -EBUSY);
	dl_cursor_free(cursor);
	dl_log_close(log);
}

static void expect_ring_entries(uint32_t entries, int expected)
{
	struct dl_options options = options_for(DL_MODE_RING);

	options.ring_entries = entries;
	expect_probe(&options, expected);
	expect_open(&options, expected);
	options.mode = DL_MODE_AUTO;
	expect_open(&options, expected);
}

static void ring_entries_out_of_range_are_refused(void **state)
{
	uint32_t max, page_entries;

	(void)state;
	need_rings();
	max = probed(machine.kvm_fd).ring_max_entries;
	page_entries = (uint32_t)(machine.page_bytes / sizeof(struct kvm_dirty_gfn));
	expect_ring_entries(3, -EINVAL);
	expect_ring_entries(1023, -EINVAL);
	expect_ring_entries(max - 1, -EINVAL);
	expect_ring_entries(1, -EINVAL);
	expect_ring_entries(page_entries / 2, -EINVAL);
	expect_ring_entries(2 * max, -E2BIG);
	expect_rings_untouched();
}

/*
 * Hazard 30 of doc/kernel.md: 2^28 entries are 2^32 bytes. The kernel truncates the size to 32
 * bits, so that 2^32 + 4096 bytes would give a tiny ring.
 */
static void ring_bytes_beyond_32_bits_are_refused(void **state)
{
	(void)state;
	need_rings();
	expect_ring_entries(1u << 28, -E2BIG);
	expect_ring_entries(1u << 31, -E2BIG);
	expect_ring_entries((1u << 28) + 256, -EINVAL);
	expect_rings_untouched();
}

static void invalid_options_are_refused(void **state)
{
	struct {
		struct dl_options options;
		uint64_t tail;
	} larger = { .options = { .size = sizeof(larger) } };
	struct dl_options options = automatic;
	struct spy spy;

	(void)state;
	options.size = 0;
	expect_open(&options, -EINVAL);
	options.size = sizeof(options) - 1;
	expect_open(&options, -EINVAL);
	options = automatic;
	options.flags = 1;
	expect_open(&options, -EINVAL);
	options = automatic;
	options.reserved = 1;
	expect_open(&options, -EINVAL);
	options = options_for(DL_MODE_BITMAP + 1);
	expect_open(&options, -EINVAL);
	options = automatic;
	options.backup = DL_BACKUP_REQUIRED + 1;
	expect_open(&options, -EINVAL);
	spy_init(&spy);
	options = automatic;
	options.os = &spy.os;
	spy.os.size--;
	expect_open(&options, -EINVAL);
	spy.os.size++;
	spy.os.page_bytes = 3000;
	expect_open(&options, -EINVAL);
	larger.tail = 1;
	expect_open(&larger.options, -E2BIG);
	expect_probe(&larger.options, -E2BIG);
	expect_rings_untouched();
}

static void longer_options_with_a_zero_tail_are_accepted(void **state)
{
	struct {
		struct dl_options options;
		uint64_t tail;
	} larger = { .options = { .size = sizeof(larger) } };

	(void)state;
	expect_open(&larger.options, 0);
}

static void expect_no_vm(int fd)
{
	struct dl_options bitmap = options_for(DL_MODE_BITMAP);

	expect_open_fd(fd, NULL, -EBADF);
	expect_open_fd(fd, &bitmap, -EBADF);
}

static void expect_no_kvm(int fd)
{
	assert_int_equal(dl_probe(fd, NULL, NULL, NULL, 0), -EBADF);
	expect_no_vm(fd);
}

static void descriptors_that_are_not_vms_are_refused(void **state)
{
	int null = open("/dev/null", O_RDWR);
	int ends[2];

	(void)state;
	assert_int_equal(pipe(ends), 0);
	expect_no_kvm(-1);
	expect_no_kvm(null);
	expect_no_kvm(ends[0]);
	expect_no_vm(machine.kvm_fd);
	expect_rings_untouched();
	add_vcpu();
	expect_no_kvm(machine.vcpus[0].fd);
	close(ends[0]);
	close(ends[1]);
	expect_no_kvm(ends[0]);
	close(null);
}

static void vm_of_another_process_is_named_so(void **state)
{
	struct dl_log *log;
	char why[200] = "";
	int status;
	pid_t child = fork();

	(void)state;
	assert_true(child >= 0);
	if (!child)
		_exit(dl_log_open(machine.vm_fd, NULL, &log, why, sizeof(why)) != -EIO || log ||
		      !strstr(why, "another process"));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void null_and_short_outputs_are_handled(void **state)
{
	struct dl_config config = { .size = sizeof(config) - 1 };
	struct dl_log *log;
	char why[8] = "1234567";

	(void)state;
	assert_int_equal(dl_log_open(machine.vm_fd, NULL, NULL, NULL, 0), -EINVAL);
	assert_int_equal(dl_probe(machine.vm_fd, NULL, &config, NULL, 0), -EINVAL);
	expect_rings_untouched();
	machine_close(&machine);
	assert_int_equal(machine_open(&machine), 0);
	assert_int_equal(dl_log_open(machine.vm_fd, NULL, &log, why, 4), 0);
	assert_int_equal(strlen(why), 3);
	assert_memory_equal(why + 4, "567", 4);
	assert_int_equal(dl_log_config(log, &config), -EINVAL);
	assert_int_equal(dl_log_config(log, NULL), -EINVAL);
	assert_int_equal(dl_log_config(NULL, &config), -EINVAL);
	dl_log_close(log);
	dl_log_close(NULL);
}

static uint32_t mode_with(const struct spy *spy)
{
	struct dl_options options = automatic;
	struct dl_config config = { .size = sizeof(config) };

	options.os = &spy->os;
	assert_int_equal(dl_probe(machine.vm_fd, &options, &config, NULL, 0), 0);
	expect_open(&options, 0);
	return config.mode;
}

static void kernel_without_rings_selects_bitmap_mode(void **state)
{
	struct dl_options ring = options_for(DL_MODE_RING);
	struct spy spy;

	(void)state;
	spy_init(&spy);
	spy_pretend(&spy, KVM_CAP_DIRTY_LOG_RING, 0);
	spy_pretend(&spy, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 0);
	assert_int_equal(mode_with(&spy), DL_MODE_BITMAP);
	ring.os = &spy.os;
	expect_open(&ring, -EOPNOTSUPP);
	assert_int_equal(spy.resets, 0);
}

/* Like kernels before 6.1; Debian's 6.1 on arm64 has neither kind of rings. */
static void kernel_without_acquire_release_rings_selects_tso_rings_or_bitmap_mode(void **state)
{
	bool tso = machine_capability(&machine, KVM_CAP_DIRTY_LOG_RING) > 0;
	struct spy spy;

	(void)state;
	spy_init(&spy);
	spy_pretend(&spy, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 0);
	assert_int_equal(mode_with(&spy), tso ? DL_MODE_RING : DL_MODE_BITMAP);
}

static void rings_enabled_by_another_owner_are_refused(void **state)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
		.args = { 65536 * sizeof(struct kvm_dirty_gfn) },
	};
	struct dl_options ring = options_for(DL_MODE_RING);

	(void)state;
	need_rings();
	if (ioctl(machine.vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		rig_skip("this kernel does not support acquire/release rings");
	/* The library must not consume the entries of rings that it did not enable. */
	expect_open(&ring, -EBUSY);
	expect_open(&automatic, -EBUSY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		open_test(probe_reports_what_the_kernel_reports),
		open_test(probe_of_system_and_vm_agree_and_change_nothing),
		open_test(open_does_what_probe_predicted),
		open_test(page_size_is_that_of_the_host),
		open_test(automatic_ring_size_fits_every_host),
		open_test(rings_must_be_enabled_before_vcpus),
		open_test(backup_must_be_enabled_before_memslots),
		open_test(rings_without_backup_may_follow_memslots),
		open_test(required_backup_is_enabled_or_open_fails),
		open_test(second_log_of_a_vm_is_refused),
		open_test(ring_entries_out_of_range_are_refused),
		open_test(ring_bytes_beyond_32_bits_are_refused),
		open_test(invalid_options_are_refused),
		open_test(longer_options_with_a_zero_tail_are_accepted),
		open_test(descriptors_that_are_not_vms_are_refused),
		open_test(vm_of_another_process_is_named_so),
		open_test(null_and_short_outputs_are_handled),
		open_test(kernel_without_rings_selects_bitmap_mode),
		open_test(kernel_without_acquire_release_rings_selects_tso_rings_or_bitmap_mode),
		open_test(rings_enabled_by_another_owner_are_refused),
	};

	return rig_run_tests("open", tests);
}
