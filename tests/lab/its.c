/* SPDX-License-Identifier: MIT */
#include "its.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm.h>

/* Guest physical addresses of the controller. No memslot may overlap them. */
#define DISTRIBUTOR_GPA	    UINT64_C(0x08000000)
#define TRANSLATER_GPA	    UINT64_C(0x08080000)
#define REDISTRIBUTOR_GPA   UINT64_C(0x080a0000)
#define TRANSLATER_DOORBELL (TRANSLATER_GPA + 0x10040)

#define VALID (UINT64_C(1) << 63)

enum {
	INTERRUPT_LINES = 64,
	COMMAND_BYTES = 32,
	EVENT_ID_BITS = 13,
	LPI_ID_BITS = 16,
	LPI_CONFIG = 0xa3, /* priority 0xa0, enabled */
	COLLECTION = 1,
	PAGE_64K = 0x10000,
};

/* Registers of the ITS. */
enum {
	GITS_CTLR = 0x0,
	GITS_IIDR = 0x4,
	GITS_CBASER = 0x80,
	GITS_CWRITER = 0x88,
	GITS_CREADR = 0x90,
	GITS_BASER_DEVICES = 0x100,
	GITS_BASER_COLLECTIONS = 0x108,
};

/* Registers of the vCPU's redistributor. KVM accesses them in halves of 32 bits. */
enum {
	GICR_CTLR = 0x0,
	GICR_PROPBASER = 0x70,
	GICR_PENDBASER = 0x78,
	GICR_CTLR_ENABLE_LPIS = 1,
};

/* Command numbers of the ITS. */
enum {
	MAPC = 0x09,
	MAPD = 0x08,
	MAPTI = 0x0a,
	SYNC = 0x05,
};

static int set_attr(int fd, uint32_t group, uint64_t attr, const void *value)
{
	struct kvm_device_attr a = { .group = group, .attr = attr, .addr = (uintptr_t)value };

	return ioctl(fd, KVM_SET_DEVICE_ATTR, &a) < 0 ? -errno : 0;
}

static int get_attr(int fd, uint32_t group, uint64_t attr, void *value)
{
	struct kvm_device_attr a = { .group = group, .attr = attr, .addr = (uintptr_t)value };

	return ioctl(fd, KVM_GET_DEVICE_ATTR, &a) < 0 ? -errno : 0;
}

static int create_device(int vm_fd, uint32_t type, int *fd)
{
	struct kvm_create_device device = { .type = type };

	if (ioctl(vm_fd, KVM_CREATE_DEVICE, &device) < 0)
		return -errno;
	*fd = (int)device.fd;
	return 0;
}

static int place(int fd, uint64_t what, uint64_t gpa)
{
	return set_attr(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, what, &gpa);
}

static int control(int fd, uint64_t what)
{
	return set_attr(fd, KVM_DEV_ARM_VGIC_GRP_CTRL, what, NULL);
}

static int create_controller(struct its *its)
{
	uint32_t lines = INTERRUPT_LINES;
	int r = create_device(its->vm_fd, KVM_DEV_TYPE_ARM_VGIC_V3, &its->gic_fd);

	if (!r)
		r = place(its->gic_fd, KVM_VGIC_V3_ADDR_TYPE_DIST, DISTRIBUTOR_GPA);
	if (!r)
		r = place(its->gic_fd, KVM_VGIC_V3_ADDR_TYPE_REDIST, REDISTRIBUTOR_GPA);
	if (!r)
		r = set_attr(its->gic_fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &lines);
	if (!r)
		r = control(its->gic_fd, KVM_DEV_ARM_VGIC_CTRL_INIT);
	return r;
}

int its_create(struct its *its, int vm_fd, uint64_t gpa, uint8_t *memory)
{
	int r;

	*its = (struct its){
		.vm_fd = vm_fd, .gic_fd = -1, .its_fd = -1, .gpa = gpa, .memory = memory
	};
	r = create_controller(its);
	if (!r)
		r = create_device(vm_fd, KVM_DEV_TYPE_ARM_VGIC_ITS, &its->its_fd);
	if (!r)
		r = place(its->its_fd, KVM_VGIC_ITS_ADDR_TYPE, TRANSLATER_GPA);
	if (!r)
		r = control(its->its_fd, KVM_DEV_ARM_VGIC_CTRL_INIT);
	if (r)
		its_close(its);
	return r;
}

void its_close(struct its *its)
{
	if (its->its_fd >= 0)
		close(its->its_fd);
	if (its->gic_fd >= 0)
		close(its->gic_fd);
	its->its_fd = its->gic_fd = -1;
}

static int set_its_register(struct its *its, uint64_t offset, uint64_t value)
{
	return set_attr(its->its_fd, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset, &value);
}

static int set_redistributor(struct its *its, uint64_t offset, uint32_t value)
{
	return set_attr(its->gic_fd, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, offset, &value);
}

static int set_redistributor_base(struct its *its, uint64_t offset, uint64_t value)
{
	int r = set_redistributor(its, offset, (uint32_t)value);

	return r ? r : set_redistributor(its, offset + 4, (uint32_t)(value >> 32));
}

/* Writes a command. Returns the address for the next one. */
static uint64_t *command(uint64_t *at, uint64_t a, uint64_t b, uint64_t c)
{
	at[0] = a;
	at[1] = b;
	at[2] = c;
	at[3] = 0;
	return at + COMMAND_BYTES / sizeof(*at);
}

static uint64_t *map_device(uint64_t *at, uint64_t device, uint64_t events_gpa)
{
	return command(at, MAPD | device << 32, EVENT_ID_BITS - 1, VALID | events_gpa);
}

static uint64_t *map_event(uint64_t *at, uint64_t device, uint64_t event, uint64_t lpi)
{
	return command(at, MAPTI | device << 32, event | lpi << 32, COLLECTION);
}

/* Returns the size of all commands in bytes. */
static uint64_t write_commands(struct its *its)
{
	uint64_t *first = (uint64_t *)(its->memory + ITS_COMMANDS), *at = first;

	at = command(at, MAPC, 0, VALID | COLLECTION); /* to vCPU 0 */
	at = map_device(at, ITS_DEVICE_A, its->gpa + ITS_EVENTS_A);
	at = map_device(at, ITS_DEVICE_B, its->gpa + ITS_EVENTS_B);
	at = map_event(at, ITS_DEVICE_A, ITS_EVENT_NEAR, ITS_LPI_NEAR);
	at = map_event(at, ITS_DEVICE_A, ITS_EVENT_FAR, ITS_LPI_FAR);
	at = map_event(at, ITS_DEVICE_B, ITS_EVENT_B, ITS_LPI_B);
	at = command(at, SYNC, 0, 0);
	return (uint64_t)(at - first) * sizeof(*at);
}

/* PROPBASER must contain the number of LPI ID bits, or MAPTI does nothing, without an error. */
static int enable_lpis(struct its *its)
{
	int r = set_redistributor_base(its, GICR_PROPBASER,
				       (its->gpa + ITS_PROPERTIES) | (LPI_ID_BITS - 1));

	if (!r)
		r = set_redistributor_base(its, GICR_PENDBASER, its->gpa + ITS_PENDING);
	if (!r)
		r = set_redistributor(its, GICR_CTLR, GICR_CTLR_ENABLE_LPIS);
	return r;
}

static int check_commands(struct its *its, uint64_t bytes)
{
	uint64_t read = 0;
	int r = get_attr(its->its_fd, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, GITS_CREADR, &read);

	return r ? r : read == bytes ? 0 : -EPROTO;
}

int its_map(struct its *its)
{
	uint64_t bytes;
	int r;

	memset(its->memory, 0, ITS_MEMORY_BYTES);
	memset(its->memory + ITS_PROPERTIES, LPI_CONFIG, PAGE_64K);
	bytes = write_commands(its);
	r = enable_lpis(its);
	if (!r)
		r = set_its_register(its, GITS_CBASER, VALID | (its->gpa + ITS_COMMANDS));
	if (!r)
		r = set_its_register(its, GITS_BASER_DEVICES, VALID | (its->gpa + ITS_DEVICES));
	if (!r)
		r = set_its_register(its, GITS_BASER_COLLECTIONS,
				     VALID | (its->gpa + ITS_COLLECTIONS));
	if (!r)
		r = set_its_register(its, GITS_CWRITER, bytes);
	if (!r)
		r = set_its_register(its, GITS_CTLR, 1); /* runs the commands */
	return r ? r : check_commands(its, bytes);
}

static int signal_event(struct its *its, uint32_t device, uint32_t event)
{
	struct kvm_msi msi = {
		.address_lo = (uint32_t)TRANSLATER_DOORBELL,
		.data = event,
		.flags = KVM_MSI_VALID_DEVID,
		.devid = device,
	};

	return ioctl(its->vm_fd, KVM_SIGNAL_MSI, &msi) < 0 ? -errno : 0;
}

int its_raise(struct its *its)
{
	int r = signal_event(its, ITS_DEVICE_A, ITS_EVENT_NEAR);

	return r ? r : signal_event(its, ITS_DEVICE_B, ITS_EVENT_B);
}

int its_save_tables(struct its *its)
{
	return control(its->its_fd, KVM_DEV_ARM_ITS_SAVE_TABLES);
}

int its_save_pending(struct its *its)
{
	return control(its->gic_fd, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES);
}

static int copy_redistributor(struct its *to, const struct its *from)
{
	const uint64_t registers[] = { GICR_PROPBASER, GICR_PROPBASER + 4, GICR_PENDBASER,
				       GICR_PENDBASER + 4, GICR_CTLR };
	uint32_t value;
	int r = 0;

	for (size_t i = 0; !r && i < sizeof(registers) / sizeof(registers[0]); i++) {
		r = get_attr(from->gic_fd, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, registers[i], &value);
		if (!r)
			r = set_redistributor(to, registers[i], value);
	}
	return r;
}

static int copy_its(struct its *to, const struct its *from)
{
	const uint64_t registers[] = { GITS_IIDR,   GITS_CBASER,	GITS_CWRITER,
				       GITS_CREADR, GITS_BASER_DEVICES, GITS_BASER_COLLECTIONS };
	uint64_t value;
	int r = 0;

	for (size_t i = 0; !r && i < sizeof(registers) / sizeof(registers[0]); i++) {
		r = get_attr(from->its_fd, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, registers[i], &value);
		if (!r)
			r = set_its_register(to, registers[i], value);
	}
	return r;
}

int its_restore(struct its *to, const struct its *from)
{
	int r = copy_redistributor(to, from);

	if (!r)
		r = copy_its(to, from);
	if (!r)
		r = control(to->its_fd, KVM_DEV_ARM_ITS_RESTORE_TABLES);
	if (!r)
		r = set_its_register(to, GITS_CTLR, 1);
	return r;
}

int its_is_pending(const struct its *its, unsigned int lpi)
{
	return its->memory[ITS_PENDING + lpi / 8] >> (lpi % 8) & 1;
}
