/* SPDX-License-Identifier: MIT */
/* Opening and closing: enabled capabilities and their order, every refusal, every text. */
#include "cmocka_all.h"
#include "emulated.h"
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
	ALL = MODEL_HAS_RING_TSO | MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP |
	      MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET,
	MAX_ENABLED = 8,
};

static struct guest guest;
static struct {
	struct kvm_enable_cap calls[MAX_ENABLED];
	unsigned int n;
} enabled;

static bool watch_enables(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	if (request == KVM_ENABLE_CAP && enabled.n < MAX_ENABLED)
		memcpy(&enabled.calls[enabled.n++], arg, sizeof(enabled.calls[0]));
	return false;
}

static void begin(uint32_t has, uint32_t mode, uint32_t backup)
{
	const struct guest_config config = {
		.model = { .has = has },
		.options = { .mode = mode, .backup = backup },
		.intercept = watch_enables,
	};

	enabled.n = 0;
	guest_new(&guest, &config);
}

static struct dl_config config_of(const struct dl_log *log)
{
	struct dl_config config = { .size = sizeof(config) };

	assert_int_equal(dl_log_config(log, &config), 0);
	return config;
}

static void expect_enabled(unsigned int i, uint32_t cap, uint64_t value)
{
	assert_true(i < enabled.n);
	assert_int_equal(enabled.calls[i].cap, cap);
	assert_int_equal(enabled.calls[i].args[0], value);
	assert_int_equal(enabled.calls[i].flags, 0);
}

static void the_version_is_that_of_the_header(void **state)
{
	assert_int_equal(dl_library_version(), DL_VERSION);
}

static void rings_then_backup_then_no_manual_protect(void **state)
{
	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	assert_int_equal(guest_open_log(&guest), 0);
	assert_int_equal(enabled.n, 3);
	expect_enabled(0, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 16384 * 16);
	expect_enabled(1, 225, 0);
	expect_enabled(2, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0);
	assert_int_equal(config_of(guest.log).mode, DL_MODE_RING);
	assert_int_equal(config_of(guest.log).backup, 1);
	assert_int_equal(config_of(guest.log).has, ALL);
	guest_close(&guest);
}

static void the_tso_ring_is_used_if_it_is_the_only_one(void **state)
{
	begin(MODEL_HAS_RING_TSO, DL_MODE_AUTO, DL_BACKUP_AUTO);
	assert_int_equal(guest_open_log(&guest), 0);
	assert_int_equal(enabled.n, 1);
	expect_enabled(0, KVM_CAP_DIRTY_LOG_RING, 16384 * 16);
	assert_int_equal(config_of(guest.log).backup, 0);
	guest_close(&guest);
}

static void backup_off_enables_no_backup(void **state)
{
	begin(ALL, DL_MODE_RING, DL_BACKUP_OFF);
	assert_int_equal(guest_open_log(&guest), 0);
	assert_int_equal(enabled.n, 2);
	expect_enabled(1, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0);
	assert_int_equal(config_of(guest.log).backup, 0);
	guest_close(&guest);
}

static void bitmap_mode_enables_nothing_at_open(void **state)
{
	begin(ALL, DL_MODE_BITMAP, DL_BACKUP_AUTO);
	assert_int_equal(guest_open_log(&guest), 0);
	assert_int_equal(enabled.n, 0);
	assert_int_equal(config_of(guest.log).mode, DL_MODE_BITMAP);
	assert_int_equal(config_of(guest.log).ring_entries, 0);
	guest_close(&guest);
}

/* The size in bytes must not overflow on its way into the u64 that KVM cuts to 32 bits. */
static void the_ring_has_the_requested_size(void **state)
{
	begin(ALL, DL_MODE_RING, DL_BACKUP_OFF);
	guest.config.options.ring_entries = 65536;
	assert_int_equal(guest_open_log(&guest), 0);
	expect_enabled(0, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 1 << 20);
	assert_int_equal(config_of(guest.log).ring_entries, 65536);
	guest_close(&guest);
}

static void unsupported_options_are_refused_before_anything_is_enabled(void **state)
{
	begin(MODEL_HAS_NOTHING, DL_MODE_RING, DL_BACKUP_AUTO);
	assert_int_equal(guest_open_log(&guest), -EOPNOTSUPP);
	assert_null(guest.log);
	assert_non_null(strstr(guest.why, "no dirty rings"));
	guest_close(&guest);
	begin(ALL & ~MODEL_HAS_BACKUP, DL_MODE_RING, DL_BACKUP_REQUIRED);
	assert_int_equal(guest_open_log(&guest), -EOPNOTSUPP);
	assert_non_null(strstr(guest.why, "required"));
	guest.config.options.backup = DL_BACKUP_AUTO;
	guest.config.options.ring_entries = 1u << 31;
	assert_int_equal(guest_open_log(&guest), -E2BIG);
	guest.config.options.ring_entries = 300;
	assert_int_equal(guest_open_log(&guest), -EINVAL);
	assert_int_equal(enabled.n, 0);
	guest_close(&guest);
}

static void arguments_are_checked(void **state)
{
	struct dl_log *log = (struct dl_log *)&guest;
	struct dl_options options = { .size = sizeof(options) };

	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	options.os = &guest.os;
	assert_int_equal(dl_log_open(guest.vm_fd, &options, NULL, NULL, 0), -EINVAL);
	options.size = 4;
	assert_int_equal(dl_log_open(guest.vm_fd, &options, &log, NULL, 0), -EINVAL);
	assert_null(log);
	options.size = sizeof(options);
	options.flags = 1;
	log = (struct dl_log *)&guest;
	assert_int_equal(dl_log_open(guest.vm_fd, &options, &log, NULL, 0), -EINVAL);
	assert_null(log);
	assert_int_equal(enabled.n, 0);
	assert_int_equal(dl_log_config(NULL, NULL), -EINVAL);
	assert_int_equal(dl_log_describe(NULL, NULL, 0), -EINVAL);
	dl_log_close(NULL);
	guest_close(&guest);
}

static void only_a_vm_has_a_log(void **state)
{
	struct dl_options options = { .size = sizeof(options) };
	struct dl_log *log = NULL;
	char why[200] = "";
	int fds[3];

	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	options.os = &guest.os;
	fds[0] = model_system_fd(guest.model);
	fds[1] = model_vcpu_create(guest.model, guest.vm_fd);
	fds[2] = 0;
	for (int i = 0; i < 3; i++) {
		log = (struct dl_log *)&guest;
		assert_int_equal(dl_log_open(fds[i], &options, &log, why, sizeof(why)), -EBADF);
		assert_null(log);
		assert_non_null(strstr(why, "not a VM"));
	}
	guest_close(&guest);
}

/* Leaves values below the stack that nobody would choose. */
static __attribute__((noinline)) void soil_stack(void)
{
	volatile unsigned char soil[8192];

	for (size_t i = 0; i < sizeof(soil); i++)
		soil[i] = 0xa5;
}

static void without_options_all_are_defaults(void **state)
{
	struct dl_log *log = NULL;
	char why[200] = "";
	int fd;

	skip_if_emulated("KVM's ioctls, so it refuses them for another reason");
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	soil_stack();
	assert_int_equal(dl_log_open(fd, NULL, &log, why, sizeof(why)), -EBADF);
	assert_non_null(strstr(why, "not a VM"));
	soil_stack();
	assert_int_equal(dl_probe(fd, NULL, NULL, why, sizeof(why)), -EBADF);
	close(fd);
}

/* A close cannot fail, so it goes on without blocking them. */
static void a_close_that_may_not_block_signals_leaves_them_alone(void **state)
{
	const struct model_fault fault = { .request = MODEL_CALL_SIGMASK,
					   .times = 1,
					   .error = EPERM };
	uint64_t calls;

	guest_open(&guest, NULL);
	assert_int_equal(model_fault(guest.model, &fault), 0);
	calls = model_calls(guest.model, MODEL_CALL_SIGMASK);
	dl_log_close(guest.log);
	guest.log = NULL;
	assert_int_equal(model_faults_injected(guest.model), 1);
	assert_int_equal(model_calls(guest.model, MODEL_CALL_SIGMASK), calls + 1);
	guest_close(&guest);
}

static int refusal;

static bool refuse_capabilities(struct guest *g, int fd, unsigned long request, void *arg,
				int *result)
{
	*result = refusal;
	return request == KVM_CHECK_EXTENSION;
}

/* KVM answers -EIO to a process that did not create the VM; a filter of system calls, -EPERM. */
static void a_vm_that_cannot_be_asked_is_not_called_no_vm(void **state)
{
	static const struct {
		int error;
		const char *words;
	} cases[] = { { -EIO, "another process" }, { -EPERM, "Operation not permitted" } };

	for (size_t i = 0; i < 2; i++) {
		begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
		guest.config.intercept = refuse_capabilities;
		refusal = cases[i].error;
		assert_int_equal(guest_open_log(&guest), cases[i].error);
		assert_non_null(strstr(guest.why, cases[i].words));
		assert_null(strstr(guest.why, "not a VM"));
		guest_close(&guest);
	}
}

static void a_failure_leaves_no_handle(void **state)
{
	struct dl_log *const stale = (struct dl_log *)&guest, *log = stale;
	struct dl_options options = { .size = sizeof(options), .flags = 1 };

	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	options.os = &guest.os;
	assert_int_equal(dl_log_open(guest.vm_fd, &options, &log, NULL, 0), -EINVAL);
	assert_null(log);
	log = stale;
	options.flags = 0;
	assert_int_equal(dl_log_open(-1, &options, &log, NULL, 0), -EBADF);
	assert_null(log);
	log = stale;
	assert_int_equal(dl_log_open(model_system_fd(guest.model), &options, &log, NULL, 0),
			 -EBADF);
	assert_null(log);
	guest_close(&guest);
}

static void an_existing_vcpu_makes_auto_choose_the_bitmap(void **state)
{
	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	guest_vcpu(&guest, false);
	assert_int_equal(guest_open_log(&guest), 0);
	assert_int_equal(config_of(guest.log).mode, DL_MODE_BITMAP);
	assert_int_equal(config_of(guest.log).ring_entries, 0);
	assert_int_equal(config_of(guest.log).backup, 0);
	assert_non_null(strstr(guest.why, "vCPU"));
	guest_join(&guest, 0);
	guest_close(&guest);
}

static void an_existing_vcpu_makes_ring_mode_busy(void **state)
{
	begin(ALL, DL_MODE_RING, DL_BACKUP_AUTO);
	guest_vcpu(&guest, false);
	assert_int_equal(guest_open_log(&guest), -EBUSY);
	assert_non_null(strstr(guest.why, "vCPU"));
	guest_close(&guest);
}

/* Intel with PML needs at least 16 KiB; a smaller requested size is the caller's mistake. */
static void a_ring_below_the_hosts_minimum_is_invalid(void **state)
{
	struct guest_config config = {
		.model = { .has = ALL, .ring_min_bytes = 16384, .pml_entries = 512 },
		.options = { .mode = DL_MODE_RING, .ring_entries = 512 },
	};

	guest_new(&guest, &config);
	assert_int_equal(guest_open_log(&guest), -EINVAL);
	assert_non_null(strstr(guest.why, "512"));
	guest.config.options.ring_entries = 1024;
	assert_int_equal(guest_open_log(&guest), 0);
	guest_close(&guest);
	guest_open(&guest, NULL);
	assert_int_equal(config_of(guest.log).ring_entries, 16384);
	guest_close(&guest);
}

static void rings_that_are_on_already_are_busy(void **state)
{
	static const uint32_t modes[] = { DL_MODE_AUTO, DL_MODE_RING, DL_MODE_BITMAP };
	struct dl_log *first;

	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	assert_int_equal(guest_open_log(&guest), 0);
	first = guest.log;
	for (int i = 0; i < 3; i++) {
		guest.log = NULL;
		guest.config.options.mode = modes[i];
		assert_int_equal(guest_open_log(&guest), -EBUSY);
		assert_null(guest.log);
		assert_non_null(strstr(guest.why, "another"));
		assert_non_null(strstr(guest.why, "earlier dl_log_open()"));
	}
	guest.log = first;
	guest_close(&guest);
}

static void an_existing_memslot_makes_the_backup_busy(void **state)
{
	struct kvm_userspace_memory_region region = { .memory_size = 4096 };
	struct guest_block *block;

	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	block = guest_memory(&guest, 1);
	region.userspace_addr = (uintptr_t)block->memory;
	assert_int_equal(guest.os.ioctl(&guest, guest.vm_fd, KVM_SET_USER_MEMORY_REGION, &region),
			 0);
	assert_int_equal(guest_open_log(&guest), -EBUSY);
	assert_non_null(strstr(guest.why, "memslot"));
	assert_non_null(strstr(guest.why, "stay"));
	/* The only failure that changes the VM. */
	assert_int_equal(guest_open_log(&guest), -EBUSY);
	guest_close(&guest);
}

static void a_failed_capability_returns_the_kernels_error(void **state)
{
	static const uint32_t caps[] = { KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 225,
					 KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 };

	for (int i = 0; i < 3; i++) {
		struct model_fault fault = {
			.request = KVM_ENABLE_CAP, .error = EIO, .only_slot = true, .slot = caps[i]
		};

		begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
		model_fault(guest.model, &fault);
		assert_int_equal(guest_open_log(&guest), -EIO);
		assert_null(guest.log);
		assert_non_null(strstr(guest.why, "Input/output"));
		guest_close(&guest);
	}
}

static void a_vm_that_does_not_answer_is_an_error(void **state)
{
	struct model_fault fault = { .request = KVM_RESET_DIRTY_RINGS, .error = EIO };

	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	model_fault(guest.model, &fault);
	assert_int_equal(guest_open_log(&guest), -EIO);
	assert_non_null(strstr(guest.why, "no reset answers"));
	assert_int_equal(enabled.n, 0);
	guest_close(&guest);
}

static void a_kernel_without_rings_may_refuse_a_reset_with_enotty(void **state)
{
	begin(MODEL_HAS_MANUAL_PROTECT, DL_MODE_AUTO, DL_BACKUP_REQUIRED);
	assert_int_equal(guest_open_log(&guest), 0);
	assert_int_equal(config_of(guest.log).mode, DL_MODE_BITMAP);
	guest_close(&guest);
}

/* An architecture that requires the backup uses the bitmap if there is none. */
static void an_arch_that_needs_the_backup_gets_it_or_bitmap_mode(void **state)
{
	struct guest_config config = { .model = { .has = ALL & ~MODEL_HAS_BACKUP,
						  .arch = DL_OS_ARCH_RING_NEEDS_BACKUP } };

	guest_open(&guest, &config);
	assert_int_equal(config_of(guest.log).mode, DL_MODE_BITMAP);
	assert_non_null(strstr(guest.why, "huge pages"));
	guest_close(&guest);
	config.model.has = ALL;
	guest_open(&guest, &config);
	assert_int_equal(config_of(guest.log).mode, DL_MODE_RING);
	assert_int_equal(config_of(guest.log).backup, 1);
	guest_close(&guest);
}

static void describe_is_like_snprintf(void **state)
{
	char text[400], cut[10];
	int n;

	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	assert_int_equal(guest_open_log(&guest), 0);
	n = dl_log_describe(guest.log, text, sizeof(text));
	assert_int_equal(n, strlen(text));
	assert_string_equal(text, guest.why);
	assert_int_equal(dl_log_describe(guest.log, NULL, 0), n);
	memset(cut, 'x', sizeof(cut));
	assert_int_equal(dl_log_describe(guest.log, cut, 9), n);
	assert_int_equal(strlen(cut), 8);
	assert_int_equal(cut[9], 'x');
	/* A failure follows the reason. */
	assert_int_equal(dl_log_describe(guest.log, NULL, 1), -EINVAL);
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > n);
	assert_memory_equal(text, guest.why, (size_t)n);
	assert_non_null(strstr(text + n, "; last failure: a pointer that is NULL"));
	guest_close(&guest);
}

static void the_config_may_be_of_another_release(void **state)
{
	struct dl_config config = { .size = sizeof(config) - 4 };

	begin(ALL, DL_MODE_AUTO, DL_BACKUP_AUTO);
	assert_int_equal(guest_open_log(&guest), 0);
	assert_int_equal(dl_log_config(guest.log, &config), -EINVAL);
	assert_int_equal(dl_log_config(guest.log, NULL), -EINVAL);
	guest_close(&guest);
}

/* The caller may close its own, and the number may then name another VM. */
static void an_open_log_does_not_use_the_callers_descriptor(void **state)
{
	struct guest_vcpu *vcpu;
	unsigned int calls;

	guest_open(&guest, NULL);
	guest_add_slot(&guest, 0, 0, 4);
	vcpu = guest_vcpu(&guest, true);
	calls = guest.calls_of_vm_fd;
	guest_join(&guest, 0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 1), 0);
	assert_int_equal(guest_pass(&guest, DL_HARVEST_PAUSED, (uint64_t[4]){ 0 }, 4), 4);
	assert_int_equal(dl_slot_remove(guest.log, 0, 0, NULL, 0), 0);
	guest_leave(&guest);
	assert_int_equal(guest.calls_of_vm_fd, calls);
	assert_int_equal(guest.duplicates, 1);
	guest_close(&guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_version_is_that_of_the_header),
		cmocka_unit_test(rings_then_backup_then_no_manual_protect),
		cmocka_unit_test(the_tso_ring_is_used_if_it_is_the_only_one),
		cmocka_unit_test(backup_off_enables_no_backup),
		cmocka_unit_test(bitmap_mode_enables_nothing_at_open),
		cmocka_unit_test(the_ring_has_the_requested_size),
		cmocka_unit_test(unsupported_options_are_refused_before_anything_is_enabled),
		cmocka_unit_test(arguments_are_checked),
		cmocka_unit_test(only_a_vm_has_a_log),
		cmocka_unit_test(without_options_all_are_defaults),
		cmocka_unit_test(a_close_that_may_not_block_signals_leaves_them_alone),
		cmocka_unit_test(a_vm_that_cannot_be_asked_is_not_called_no_vm),
		cmocka_unit_test(a_failure_leaves_no_handle),
		cmocka_unit_test(an_existing_vcpu_makes_auto_choose_the_bitmap),
		cmocka_unit_test(an_existing_vcpu_makes_ring_mode_busy),
		cmocka_unit_test(a_ring_below_the_hosts_minimum_is_invalid),
		cmocka_unit_test(rings_that_are_on_already_are_busy),
		cmocka_unit_test(an_existing_memslot_makes_the_backup_busy),
		cmocka_unit_test(a_failed_capability_returns_the_kernels_error),
		cmocka_unit_test(a_vm_that_does_not_answer_is_an_error),
		cmocka_unit_test(a_kernel_without_rings_may_refuse_a_reset_with_enotty),
		cmocka_unit_test(an_arch_that_needs_the_backup_gets_it_or_bitmap_mode),
		cmocka_unit_test(describe_is_like_snprintf),
		cmocka_unit_test(the_config_may_be_of_another_release),
		cmocka_unit_test(an_open_log_does_not_use_the_callers_descriptor),
	};

	return RUN_TESTS("log", tests);
}
