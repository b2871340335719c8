/* SPDX-License-Identifier: MIT */
/* Probing: the kernel's capabilities, the mode that is chosen from them, and the reason given. */
#include "kvm/caps.h"
#include "cmocka_all.h"
#include "emulated.h"
#include "fake_os.h"
#include "kvm/uapi.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { KVM_FD = 3, VM_FD = 4, OTHER_FD = 5, ALL = 31 };

static struct fake_os fake;
static char why[400];

static struct {
	uint32_t has;
	int ring_bytes, slot_ids, address_spaces;
	int refusal;	  /* the error of all queries except KVM_CAP_NR_MEMSLOTS; 0: none */
	int ring_refusal; /* the error of KVM_CAP_DIRTY_LOG_RING; 0: none */
} kernel;

static int check_extension(unsigned long cap)
{
	int manual = (kernel.has & DL_HAS_MANUAL_PROTECT ? 1 : 0) |
		     (kernel.has & DL_HAS_INITIALLY_SET ? 2 : 0);

	if (kernel.ring_refusal && cap == KVM_CAP_DIRTY_LOG_RING)
		return kernel.ring_refusal;
	if (kernel.refusal && cap != KVM_CAP_NR_MEMSLOTS)
		return kernel.refusal;
	switch (cap) {
	case KVM_CAP_DIRTY_LOG_RING:
		return kernel.has & DL_HAS_RING_TSO ? kernel.ring_bytes : 0;
	case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
		return kernel.has & DL_HAS_RING_ACQ_REL ? kernel.ring_bytes : 0;
	case KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP:
		return !!(kernel.has & DL_HAS_BACKUP);
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return manual;
	case KVM_CAP_NR_MEMSLOTS:
		return kernel.slot_ids;
	case KVM_CAP_MULTI_ADDRESS_SPACE:
		return kernel.address_spaces;
	}
	return 0;
}

static int kernel_ioctl(struct fake_os *os, int fd, unsigned long request, void *arg)
{
	if (fd != KVM_FD && fd != VM_FD)
		return -ENOTTY;
	switch (request) {
	case KVM_GET_API_VERSION:
		return fd == KVM_FD ? KVM_API_VERSION : -ENOTTY;
	case KVM_CHECK_EXTENSION:
		return check_extension((unsigned long)arg);
	}
	/* A probe changes nothing. */
	fail_msg("a probe made the ioctl %#lx", request);
	return -ENOTTY;
}

static int setup(void **state)
{
	fake_os_init(&fake);
	fake.ioctl = kernel_ioctl;
	kernel.has = ALL;
	kernel.ring_bytes = 1 << 20;
	kernel.slot_ids = 32764;
	kernel.address_spaces = 2;
	kernel.refusal = kernel.ring_refusal = 0;
	strcpy(why, "?");
	return 0;
}

#define caps_test(function) cmocka_unit_test_setup(function, setup)

static struct dl_options options_of(uint32_t mode, uint32_t backup, uint32_t ring_entries)
{
	return (struct dl_options){ .size = sizeof(struct dl_options),
				    .mode = mode,
				    .backup = backup,
				    .ring_entries = ring_entries,
				    .os = &fake.os };
}

static int probe(const struct dl_options *options, struct dl_config *config)
{
	memset(config, 0xee, sizeof(*config));
	config->size = sizeof(*config);
	return dl_probe(VM_FD, options, config, why, sizeof(why));
}

static void capabilities_of_the_kernel_are_reported(void **state)
{
	const struct dl_options options = options_of(DL_MODE_BITMAP, 0, 0);
	struct dl_config config;

	for (uint32_t has = 0; has <= ALL; has++) {
		bool rings = has & (DL_HAS_RING_TSO | DL_HAS_RING_ACQ_REL);

		/* No kernel has INITIALLY_SET without MANUAL_PROTECT. */
		if (has & DL_HAS_INITIALLY_SET && !(has & DL_HAS_MANUAL_PROTECT))
			continue;
		kernel.has = has;
		assert_int_equal(probe(&options, &config), 0);
		assert_int_equal(config.has, has);
		assert_int_equal(config.ring_max_entries, rings ? 65536 : 0);
		assert_int_equal(config.page_bytes, 4096);
		assert_int_equal(config.reserved, 0);
		assert_int_equal(config.size, sizeof(config));
	}
}

static void slot_limits_are_reported(void **state)
{
	struct dli_caps caps;

	assert_int_equal(dli_caps_probe(&fake.os, VM_FD, &caps), 0);
	assert_int_equal(caps.slot_ids, 32764);
	assert_int_equal(caps.address_spaces, 2);
	kernel.slot_ids = 0;
	kernel.address_spaces = 0;
	assert_int_equal(dli_caps_probe(&fake.os, VM_FD, &caps), 0);
	assert_int_equal(caps.slot_ids, 32);
	assert_int_equal(caps.address_spaces, 1);
}

/* The header's rule. 0: ring; 1: ring with backup; 2: bitmap; otherwise an error. */
static int expected_choice(uint32_t has, bool safe, uint32_t mode, uint32_t backup)
{
	bool ring = has & (DL_HAS_RING_TSO | DL_HAS_RING_ACQ_REL), has_backup = has & DL_HAS_BACKUP;
	int refused = mode == DL_MODE_RING ? -EOPNOTSUPP : 2;

	if (mode == DL_MODE_BITMAP)
		return 2;
	if (!ring)
		return refused;
	if (has_backup && backup != DL_BACKUP_OFF)
		return 1;
	return backup == DL_BACKUP_REQUIRED || !safe ? refused : 0;
}

static void the_choice_follows_the_documented_rule(void **state)
{
	for (uint32_t n = 0; n < 8 * 2 * 3 * 3; n++) {
		uint32_t has = n % 8, mode = n / 16 % 3, backup = n / 48;
		bool safe = n / 8 % 2;
		const struct dl_options options = options_of(mode, backup, 0);
		int rule = expected_choice(has, safe, mode, backup), r;
		struct dl_config config;

		kernel.has = has;
		fake.os.arch = safe ? DL_OS_ARCH_RING_ALONE_SAFE : DL_OS_ARCH_RING_NEEDS_BACKUP;
		r = probe(&options, &config);
		assert_true(strlen(why) > 20);
		assert_int_equal(r, rule < 0 ? rule : 0);
		if (r)
			continue;
		assert_int_equal(config.mode, rule == 2 ? DL_MODE_BITMAP : DL_MODE_RING);
		assert_int_equal(config.backup, rule == 1);
		assert_int_equal(config.ring_entries, rule == 2 ? 0 : 16384);
	}
}

static void the_reason_names_what_was_chosen(void **state)
{
	const struct dl_options automatic = options_of(DL_MODE_AUTO, DL_BACKUP_AUTO, 0);
	const struct dl_options required = options_of(DL_MODE_AUTO, DL_BACKUP_REQUIRED, 0);
	struct dl_config config;

	assert_int_equal(probe(&automatic, &config), 0);
	assert_non_null(strstr(why, "16384 entries"));
	assert_non_null(strstr(why, "acquire/release"));
	assert_non_null(strstr(why, "with the backup bitmap"));
	kernel.has = DL_HAS_RING_TSO;
	assert_int_equal(probe(&automatic, &config), 0);
	assert_non_null(strstr(why, "TSO"));
	assert_int_equal(probe(&required, &config), 0);
	assert_int_equal(strncmp(why, "bitmap", 6), 0);
	assert_non_null(strstr(why, "required"));
	kernel.has = 0;
	assert_int_equal(probe(&automatic, &config), 0);
	assert_non_null(strstr(why, "no dirty rings"));
}

/* A clean start does not enable that part of the capability. */
static void the_reason_promises_set_bits_only_for_a_start_that_is_not_clean(void **state)
{
	const struct dl_options bitmap = options_of(DL_MODE_BITMAP, DL_BACKUP_AUTO, 0);
	struct dl_config config;

	assert_int_equal(probe(&bitmap, &config), 0);
	assert_non_null(strstr(why, "initially set unless the start is clean"));
	kernel.has &= ~(uint32_t)DL_HAS_INITIALLY_SET;
	assert_int_equal(probe(&bitmap, &config), 0);
	assert_null(strstr(why, "initially set"));
}

static void backup_off_is_no_licence_to_lose_vcpu_writes(void **state)
{
	const struct dl_options automatic = options_of(DL_MODE_AUTO, DL_BACKUP_OFF, 0);
	const struct dl_options ring = options_of(DL_MODE_RING, DL_BACKUP_OFF, 0);
	struct dl_config config;

	fake.os.arch = DL_OS_ARCH_RING_NEEDS_BACKUP;
	assert_int_equal(probe(&automatic, &config), 0);
	assert_int_equal(config.mode, DL_MODE_BITMAP);
	assert_non_null(strstr(why, "off as requested"));
	assert_non_null(strstr(why, "huge pages"));
	assert_int_equal(probe(&ring, &config), -EOPNOTSUPP);
	assert_non_null(strstr(why, "off as requested"));
	assert_non_null(strstr(why, "huge pages"));
}

static void the_reason_is_cut_to_its_buffer_and_terminated(void **state)
{
	const struct dl_options options = options_of(DL_MODE_AUTO, 0, 0);
	char whole[400], cut[8];

	assert_int_equal(dl_probe(VM_FD, &options, NULL, whole, sizeof(whole)), 0);
	memset(cut, 'x', sizeof(cut));
	assert_int_equal(dl_probe(VM_FD, &options, NULL, cut, sizeof(cut) - 1), 0);
	assert_memory_equal(cut, whole, sizeof(cut) - 2);
	assert_int_equal(cut[6], 0);
	assert_int_equal(cut[7], 'x');
	assert_int_equal(dl_probe(VM_FD, &options, NULL, cut, 0), 0);
	assert_int_equal(dl_probe(VM_FD, &options, NULL, NULL, 99), 0);
}

static void ring_sizes_have_limits(void **state)
{
	static const struct {
		uint32_t entries;
		int result;
	} cases[] = { { 256, 0 },	  { 65536, 0 },	  { 131072, -E2BIG }, { 1u << 31, -E2BIG },
		      { 128, -EINVAL },	  { 1, -EINVAL }, { 257, -EINVAL },   { 12288, -EINVAL },
		      { 65535, -EINVAL }, { 1024, 0 } };
	struct dl_config config;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct dl_options ring = options_of(DL_MODE_RING, 0, cases[i].entries);
		const struct dl_options automatic = options_of(DL_MODE_AUTO, 0, cases[i].entries);

		assert_int_equal(probe(&ring, &config), cases[i].result);
		assert_int_equal(probe(&automatic, &config), cases[i].result);
		assert_true(strlen(why) > 10);
		if (!cases[i].result)
			assert_int_equal(config.ring_entries, cases[i].entries);
	}
}

static void the_default_ring_fits_the_kernel_and_the_page(void **state)
{
	const struct dl_options options = options_of(DL_MODE_RING, 0, 0);
	const struct dl_options small = options_of(DL_MODE_RING, 0, 2048);
	struct dl_config config;

	kernel.ring_bytes = 65536;
	assert_int_equal(probe(&options, &config), 0);
	assert_int_equal(config.ring_entries, 4096);
	fake.os.page_bytes = 65536;
	assert_int_equal(probe(&options, &config), 0);
	assert_int_equal(config.ring_entries, 4096);
	assert_int_equal(config.page_bytes, 65536);
	/* The entries fill less than a host page. */
	assert_int_equal(probe(&small, &config), -EINVAL);
}

static void options_are_checked(void **state)
{
	struct dl_options good = options_of(DL_MODE_AUTO, DL_BACKUP_AUTO, 0), options;
	struct dl_config config;

	options = good;
	options.flags = 1;
	assert_int_equal(probe(&options, &config), -EINVAL);
	options = good;
	options.reserved = 1;
	assert_int_equal(probe(&options, &config), -EINVAL);
	options = good;
	options.mode = 3;
	assert_int_equal(probe(&options, &config), -EINVAL);
	options = good;
	options.backup = 3;
	assert_int_equal(probe(&options, &config), -EINVAL);
	options = good;
	options.size = sizeof(options) - 1;
	assert_int_equal(probe(&options, &config), -EINVAL);
	assert_true(strlen(why) > 10);
	fake.os.size = 1;
	assert_int_equal(probe(&good, &config), -EINVAL);
	assert_non_null(strstr(why, "table"));
}

static void longer_options_must_end_in_zeros(void **state)
{
	struct {
		struct dl_options known;
		uint64_t tail;
	} options = { .known = options_of(DL_MODE_RING, 0, 512) };
	struct dl_config config;

	options.known.size = sizeof(options);
	assert_int_equal(probe(&options.known, &config), 0);
	assert_int_equal(config.ring_entries, 512);
	options.tail = UINT64_C(1) << 63;
	assert_int_equal(probe(&options.known, &config), -E2BIG);
	assert_true(strlen(why) > 10);
}

static void a_larger_config_is_filled_and_a_smaller_one_refused(void **state)
{
	const struct dl_options options = options_of(DL_MODE_AUTO, 0, 0);
	struct {
		struct dl_config known;
		uint64_t tail;
	} config;

	memset(&config, 0xff, sizeof(config));
	config.known.size = sizeof(config);
	assert_int_equal(dl_probe(VM_FD, &options, &config.known, NULL, 0), 0);
	assert_int_equal(config.known.size, sizeof(config));
	assert_int_equal(config.tail, 0);
	config.known.size = sizeof(config.known) - 1;
	assert_int_equal(dl_probe(VM_FD, &options, &config.known, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "size"));
}

static void the_system_and_vm_descriptors_are_accepted_and_no_other(void **state)
{
	const struct dl_options options = options_of(DL_MODE_AUTO, 0, 0);
	struct dl_config system = { .size = sizeof(system) }, vm = { .size = sizeof(vm) };

	skip_if_emulated("KVM's ioctls, so it refuses them for another reason");
	assert_int_equal(dl_probe(KVM_FD, &options, &system, why, sizeof(why)), 0);
	assert_int_equal(dl_probe(VM_FD, &options, &vm, why, sizeof(why)), 0);
	assert_memory_equal(&system, &vm, sizeof(vm));
	assert_true(dli_caps_is_system_fd(&fake.os, KVM_FD));
	assert_false(dli_caps_is_system_fd(&fake.os, VM_FD));
	assert_int_equal(dl_probe(OTHER_FD, &options, &vm, why, sizeof(why)), -EBADF);
	assert_non_null(strstr(why, "neither"));
	assert_int_equal(dl_probe(-1, NULL, NULL, why, sizeof(why)), -EBADF);
}

/* A failed query must not read as absent, nor the bits of its errno value as present. */
static void a_failed_query_fails_the_probe(void **state)
{
	static const int errors[] = { -EIO, -EPERM, -ENOTTY, -EINVAL };
	static const int results[] = { -EIO, -EPERM, -EBADF, -EBADF };
	static const char *const words[] = { "another process", "not permitted", "neither",
					     "neither" };
	const struct dl_options options = options_of(DL_MODE_AUTO, DL_BACKUP_AUTO, 0);

	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		kernel.refusal = errors[i];
		assert_int_equal(dl_probe(VM_FD, &options, NULL, why, sizeof(why)), results[i]);
		assert_non_null(strstr(why, words[i]));
	}
}

/* The later ones may only be its consequences. */
static void a_probe_returns_its_first_error(void **state)
{
	const struct dl_options options = options_of(DL_MODE_AUTO, DL_BACKUP_AUTO, 0);

	kernel.address_spaces = -EPERM;
	kernel.ring_refusal = -EIO;
	assert_int_equal(dl_probe(VM_FD, &options, NULL, why, sizeof(why)), -EPERM);
}

/* A kernel that knows the capability, but not the bit that makes CLEAR useful. */
static void manual_protect_requires_bit_0_of_its_capability(void **state)
{
	const struct dl_options options = options_of(DL_MODE_BITMAP, 0, 0);
	struct dl_config config;

	kernel.has = DL_HAS_INITIALLY_SET;
	assert_int_equal(probe(&options, &config), 0);
	assert_int_equal(config.has, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		caps_test(capabilities_of_the_kernel_are_reported),
		caps_test(slot_limits_are_reported),
		caps_test(the_choice_follows_the_documented_rule),
		caps_test(the_reason_names_what_was_chosen),
		caps_test(the_reason_promises_set_bits_only_for_a_start_that_is_not_clean),
		caps_test(backup_off_is_no_licence_to_lose_vcpu_writes),
		caps_test(the_reason_is_cut_to_its_buffer_and_terminated),
		caps_test(ring_sizes_have_limits),
		caps_test(the_default_ring_fits_the_kernel_and_the_page),
		caps_test(options_are_checked),
		caps_test(longer_options_must_end_in_zeros),
		caps_test(a_larger_config_is_filled_and_a_smaller_one_refused),
		caps_test(the_system_and_vm_descriptors_are_accepted_and_no_other),
		caps_test(a_failed_query_fails_the_probe),
		caps_test(a_probe_returns_its_first_error),
		caps_test(manual_protect_requires_bit_0_of_its_capability),
	};

	return RUN_TESTS("caps", tests);
}
