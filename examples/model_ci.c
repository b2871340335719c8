/* SPDX-License-Identifier: MIT */
/*
 * A VMM's migration in a test that needs no KVM: the guest and the kernel are libdirtylog-model,
 * the calls are the VMM's own. A mistake can be planted; the model's oracle names the page that
 * would have been corrupted, and who wrote it. Without one it proves that the copy is equal.
 */
#include <dirtylog/dirtylog.h>
#include <dirtylog/model.h>

#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_EQUAL = 0, EXIT_STALE = 1, EXIT_USAGE = 2 };
enum { PAGE_BYTES = 4096, PAGES = 1024, BYTES = PAGES * PAGE_BYTES, RING_ENTRIES = 256 };
/* The guest's own pages come first, then those of its devices. */
enum { GUEST_PAGES = 1000, NET_PAGE = 1001, ITS_PAGE = 1002, ROUNDS = 4, KVM_EXIT_INTR = 10 };

#define GPA UINT64_C(0x40000000)

enum bug { BUG_NONE, BUG_FORGET_MARK, BUG_READ_EARLY, BUG_SKIP_HARVEST, BUGS };

static const char *const bug_names[BUGS] = { "none", "forget-mark", "read-early", "skip-harvest" };

struct vmm {
	enum bug bug;
	uint32_t mode; /* enum dl_mode */
	unsigned int random;
	struct dlm_vm *vm; /* the model's side: kernel, guest, destination */
	struct dlm_vcpu *guest;
	struct dlm_receiver *destination;
	void *memory; /* the VMM's side */
	unsigned char *send_buffer;
	struct dl_log *log;
	struct dl_vcpu *vcpu;
	struct dl_cursor *migration;
	uint64_t sent_bytes, ring_exits;
};

static int must(const struct vmm *vmm, int r, const char *what)
{
	char text[200] = "";

	if (r >= 0)
		return r;
	if (vmm->log)
		r = dl_log_last_error(vmm->log, text, sizeof(text));
	if (!*text && vmm->vm)
		r = dlm_last_error(vmm->vm, text, sizeof(text));
	fprintf(stderr, "model_ci: %s: %s\n", what, text);
	exit(EXIT_USAGE);
}

/* ---- What the test plays: a guest, and devices ---- */

static void run_guest(struct vmm *vmm, unsigned int writes)
{
	while (writes) {
		uint64_t gpa = GPA + (uint64_t)(vmm->random >> 8) % GUEST_PAGES * PAGE_BYTES;

		/* The VMM's answer to KVM_EXIT_DIRTY_RING_FULL; then the guest stores again. */
		if (must(vmm, dlm_vcpu_write(vmm->guest, 0, gpa, NULL, 8, NULL), "guest")) {
			vmm->ring_exits++;
			must(vmm, dl_vcpu_drain(vmm->vcpu, 0), "dl_vcpu_drain");
			continue;
		}
		vmm->random = vmm->random * 1664525 + 1013904223;
		writes--;
	}
}

/* A packet arrives: written, then marked, and only then would the guest be notified. */
static void receive_packet(struct vmm *vmm)
{
	uint64_t gpa = GPA + (uint64_t)NET_PAGE * PAGE_BYTES + 64;

	must(vmm, dlm_vmm_write(vmm->vm, "virtio-net", 0, gpa, NULL, 1500), "packet");
	if (vmm->bug != BUG_FORGET_MARK)
		must(vmm, dl_mark_gpa(vmm->log, 0, gpa, 1500), "dl_mark_gpa");
}

/* The kernel writes the interrupt controller's tables, on no vCPU's behalf. */
static void save_device_state(struct vmm *vmm)
{
	uint64_t gpa = GPA + (uint64_t)ITS_PAGE * PAGE_BYTES;

	must(vmm, dlm_kernel_write(vmm->vm, 0, gpa, NULL, 64), "ITS");
}

/* ---- What is tested: the VMM ---- */

static void send_extent(struct vmm *vmm, const struct dl_extent *extent)
{
	unsigned char *contents = vmm->send_buffer + extent->offset_bytes;

	if (vmm->bug != BUG_READ_EARLY)
		dlm_copy(contents, (void *)(uintptr_t)extent->hva, extent->bytes);
	must(vmm,
	     dlm_receiver_put_gpa(vmm->destination, extent->slot >> 16, extent->gpa, contents,
				  extent->bytes),
	     "send");
	vmm->sent_bytes += extent->bytes;
}

/* Returns how much was pending. The guest runs in between unless the pass is paused. */
static uint64_t pass(struct vmm *vmm, uint32_t flags)
{
	struct dl_extent extents[16];
	uint64_t pending;
	int n;

	if (vmm->bug == BUG_READ_EARLY)
		dlm_copy(vmm->send_buffer, vmm->memory, BYTES);
	if (!(flags & DL_HARVEST_PAUSED))
		run_guest(vmm, 40);
	must(vmm, dlm_receiver_pass(vmm->destination), "dlm_receiver_pass");
	must(vmm, dl_harvest(vmm->migration, flags, &pending), "dl_harvest");
	while ((n = must(vmm, dl_cursor_read(vmm->migration, extents, 16), "dl_cursor_read"))) {
		for (int i = 0; i < n; i++)
			send_extent(vmm, &extents[i]);
		if (!(flags & DL_HARVEST_PAUSED))
			run_guest(vmm, 5);
	}
	must(vmm, dl_cursor_end(vmm->migration, DL_END_COMMIT), "dl_cursor_end");
	return pending;
}

static void migrate(struct vmm *vmm)
{
	must(vmm, dl_cursor_new(vmm->log, NULL, &vmm->migration), "dl_cursor_new");
	for (unsigned int round = 0; round < ROUNDS; round++) {
		run_guest(vmm, 1000 >> round);
		receive_packet(vmm);
		pass(vmm, 0);
	}
	must(vmm, dlm_vcpu_exit(vmm->guest, KVM_EXIT_INTR), "pause");
	pass(vmm, DL_HARVEST_PAUSED);
	save_device_state(vmm);
	/* Saving the device wrote memory that no pass has yet. */
	while (vmm->bug != BUG_SKIP_HARVEST && pass(vmm, DL_HARVEST_PAUSED))
		;
}

static void start(struct vmm *vmm)
{
	const struct dlm_options kernel = { .size = sizeof(kernel), .arch = DLM_ARCH_ARM64 };
	struct dl_options options = { .size = sizeof(options),
				      .mode = vmm->mode,
				      .ring_entries = RING_ENTRIES };
	struct dl_slot slot = { .size = sizeof(slot), .gpa = GPA, .bytes = BYTES };
	char why[200] = "";

	if (vmm->mode == DL_MODE_BITMAP)
		options.ring_entries = 0;
	must(vmm, dlm_vm_new(&kernel, &vmm->vm, why, sizeof(why)), why);
	/* A VMM takes these two from the caller: NULL and KVM's descriptor outside of tests. */
	options.os = dlm_vm_os(vmm->vm);
	must(vmm, dl_log_open(dlm_vm_fd(vmm->vm), &options, &vmm->log, why, sizeof(why)), why);
	must(vmm, dlm_memory_new(vmm->vm, BYTES, &vmm->memory), "dlm_memory_new");
	slot.hva = (uintptr_t)vmm->memory;
	must(vmm, dl_slot_set(vmm->log, &slot), "dl_slot_set");
	must(vmm, dlm_vcpu_add(vmm->vm, &vmm->guest), "dlm_vcpu_add");
	must(vmm, dl_vcpu_add(vmm->log, dlm_vcpu_fd(vmm->guest), 0, 0, &vmm->vcpu), "dl_vcpu_add");
	must(vmm, dlm_receiver_new(vmm->vm, DLM_RECEIVER_GPA, &vmm->destination), "receiver");
	vmm->send_buffer = calloc(PAGES, PAGE_BYTES);
	must(vmm, vmm->send_buffer ? 0 : -1, "no memory");
}

static void stop(struct vmm *vmm)
{
	dl_cursor_free(vmm->migration);
	dl_vcpu_remove(vmm->vcpu);
	dl_log_close(vmm->log);
	dlm_receiver_free(vmm->destination);
	dlm_vm_free(vmm->vm);
	free(vmm->send_buffer);
}

static int verdict(struct vmm *vmm)
{
	struct dlm_stale stale = { .size = sizeof(stale) };
	char text[600];

	if (must(vmm, dlm_receiver_compare(vmm->destination, &stale), "compare")) {
		must(vmm, dlm_stale_describe(&stale, text, sizeof(text)), "describe");
		printf("stale: %s\n", text);
		return EXIT_STALE;
	}
	printf("equal: %d pages after %" PRIu64 " writes; %" PRIu64 " bytes sent, %" PRIu64
	       " full rings\n",
	       PAGES, dlm_writes(vmm->vm), vmm->sent_bytes, vmm->ring_exits);
	return EXIT_EQUAL;
}

static void usage(FILE *to)
{
	fputs("Usage: model_ci [--bug NAME] [--mode ring|bitmap] [--seed N]\n\n"
	      "Migrates a guest of libdirtylog-model as a VMM would, and compares the copy.\n\n"
	      "  --bug forget-mark   a device writes guest memory, and nobody marks it\n"
	      "  --bug read-early    contents are read before dl_harvest(), and sent after it\n"
	      "  --bug skip-harvest  no pass follows the saving of in-kernel device state\n"
	      "  --mode MODE         rings (the default) or bitmaps\n"
	      "  --seed N            another guest\n"
	      "  --help              this text\n\n"
	      "The exit status is 0 if the copy is equal, 1 if a page is stale, 2 for an error.\n",
	      to);
}

static bool set_bug(struct vmm *vmm, const char *name)
{
	for (int i = 0; i < BUGS; i++) {
		if (!strcmp(name, bug_names[i])) {
			vmm->bug = (enum bug)i;
			return true;
		}
	}
	return false;
}

static bool set_mode(struct vmm *vmm, const char *name)
{
	vmm->mode = !strcmp(name, "bitmap") ? DL_MODE_BITMAP : DL_MODE_RING;
	return vmm->mode == DL_MODE_BITMAP || !strcmp(name, "ring");
}

static bool set_seed(struct vmm *vmm, const char *text)
{
	char *end;

	vmm->random = (unsigned int)strtoul(text, &end, 0);
	return *text && !*end;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "bug", required_argument, NULL, 'b' },
		{ "mode", required_argument, NULL, 'm' },
		{ "seed", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct vmm vmm = { .mode = DL_MODE_RING, .random = 1 };
	bool good = true;
	int option, result;

	while (good && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'h') {
			usage(stdout);
			return EXIT_EQUAL;
		}
		good = (option == 'b' && set_bug(&vmm, optarg)) ||
		       (option == 'm' && set_mode(&vmm, optarg)) ||
		       (option == 's' && set_seed(&vmm, optarg));
	}
	if (!good || optind < argc) {
		usage(stderr);
		return EXIT_USAGE;
	}
	start(&vmm);
	migrate(&vmm);
	result = verdict(&vmm);
	stop(&vmm);
	return result;
}
