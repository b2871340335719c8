/* SPDX-License-Identifier: MIT */
/* Makes scripts. Its idea of the slots only guides it; the kernel decides on each answer. */
#include "script.h"

#include <sys/mman.h>

#include "../unit/random.h"

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

#define LOG	 KVM_MEM_LOG_DIRTY_PAGES
#define MANY	 SIDE_MAX_VALUES
#define ANY_WORD (~0ULL)

enum {
	SLOTS = SIDE_SLOTS + 1, /* the last one in the second address space */
	SECOND_SPACE = 1 << 16,
	PLACES = 5,
	BODY_OPS = 60,
	SMALL_STORES = 40,
	LARGE_RING_BYTES = 65536,
	KERNEL_STORES = 600, /* overflows the smallest ring twice */
};

struct believed {
	bool there;
	uint32_t flags, place, memory;
	uint64_t pages;
};

struct maker {
	struct script *script;
	struct random random;
	enum script_kind kind;
	const struct script_host *host;
	uint64_t ring_bytes;
	bool backup;
	uint64_t value;
	uint64_t most_pages[SLOTS];
	struct believed slots[SLOTS];
};

/* Never call this twice in one expression: the order of evaluation is unspecified. */
static uint64_t draw(struct maker *m, uint64_t below)
{
	return random_below(&m->random, below);
}

static bool one_in(struct maker *m, uint64_t n)
{
	return !draw(m, n);
}

static void emit(struct maker *m, struct op op)
{
	if (m->script->count < SCRIPT_OPS)
		m->script->ops[m->script->count++] = op;
}

static uint64_t slot_name(uint32_t slot)
{
	return slot < SIDE_SLOTS ? slot : SECOND_SPACE;
}

/* The memory that a slot has, unless it is an alias of another slot's. */
static uint32_t own_memory(uint32_t slot)
{
	return slot % SIDE_SLOTS;
}

static uint64_t slot_hva(const struct maker *m, uint32_t slot)
{
	return (uint64_t)m->slots[slot].memory * SIDE_SLOT_PAGES;
}

/* The second address space has only one slot. */
static bool place_is_free(const struct maker *m, uint32_t place, uint32_t for_slot)
{
	uint32_t slot;

	for (slot = 0; for_slot < SIDE_SLOTS && slot < SIDE_SLOTS; slot++)
		if (slot != for_slot && m->slots[slot].there && m->slots[slot].place == place)
			return false;
	return true;
}

static void set_slot(struct maker *m, uint32_t slot, uint32_t flags, uint32_t place)
{
	uint64_t pages = m->slots[slot].pages;

	emit(m, (struct op){ OP_REGION, slot_name(slot), flags, place * SIDE_SLOT_PAGES, pages,
			     slot_hva(m, slot) });
	if (place_is_free(m, place, slot))
		m->slots[slot] =
			(struct believed){ true, flags, place, m->slots[slot].memory, pages };
}

/*
 * The new slot may be smaller than its predecessor, whose entries may still be in a ring. It may be
 * an alias: another slot's memory.
 */
static void create_slot(struct maker *m, uint32_t slot, uint32_t flags, uint32_t place)
{
	m->slots[slot].pages = m->most_pages[slot];
	if (one_in(m, 2))
		m->slots[slot].pages = 1 + draw(m, m->most_pages[slot]);
	m->slots[slot].memory = one_in(m, 4) ? (uint32_t)draw(m, SIDE_SLOTS) : own_memory(slot);
	set_slot(m, slot, flags, place);
}

static void remove_slot(struct maker *m, uint32_t slot)
{
	emit(m, (struct op){ OP_REGION, slot_name(slot) });
	m->slots[slot].there = false;
}

/* A region that KVM must refuse, or a slot of another size that is removed at once. */
static void odd_region(struct maker *m, uint32_t slot)
{
	struct op op = { OP_REGION,
			 slot_name(slot),
			 m->slots[slot].flags,
			 m->slots[slot].place * SIDE_SLOT_PAGES,
			 m->slots[slot].pages,
			 slot_hva(m, slot) };

	switch (draw(m, 6)) {
	case 0:
		op.d--;
		break;
	case 1:
		op.e++;
		break;
	case 2:
		op.b ^= KVM_MEM_READONLY;
		break;
	case 3:
		op.b |= 1U << draw(m, 32);
		break;
	case 4:
		op.a = draw(m, 1 << 18) | 0x8000;
		break;
	default:
		op.c += draw(m, 40);
	}
	emit(m, op);
	remove_slot(m, slot);
}

/* Writes the last pages of the new slot while rings still hold entries of the old one. */
static void remake_slot(struct maker *m, uint32_t slot)
{
	struct believed was = m->slots[slot];
	uint64_t pages, first;

	remove_slot(m, slot);
	create_slot(m, slot, was.flags, was.place);
	pages = m->slots[slot].pages;
	first = pages - 1 - draw(m, pages < 8 ? pages : 8);
	emit(m, (struct op){ OP_WRITE, draw(m, SIDE_VCPUS), was.place * SIDE_SLOT_PAGES + first,
			     pages - first, 1, ++m->value });
}

static void change_slot(struct maker *m)
{
	uint32_t slot = one_in(m, 12) ? SIDE_SLOTS : (uint32_t)draw(m, SIDE_SLOTS);
	uint32_t place = (uint32_t)draw(m, PLACES);
	uint32_t log = one_in(m, 3) ? 0 : LOG, read_only = one_in(m, 8) ? KVM_MEM_READONLY : 0;
	struct believed is = m->slots[slot];

	if (one_in(m, 12))
		odd_region(m, slot);
	else if (!is.there)
		create_slot(m, slot, log | read_only, place);
	else if (one_in(m, 6))
		remove_slot(m, slot);
	else if (one_in(m, 5))
		remake_slot(m, slot);
	else if (one_in(m, 3))
		set_slot(m, slot, one_in(m, 4) ? is.flags ^ LOG : is.flags, place);
	else
		set_slot(m, slot, is.flags ^ LOG, is.place);
}

/* Logging off and on protects every page again and leaves the entries in the ring. */
static void protect_again(struct maker *m)
{
	uint32_t slot = (uint32_t)draw(m, SIDE_SLOTS);
	struct believed is = m->slots[slot];

	if (!is.there)
		return;
	set_slot(m, slot, is.flags & ~LOG, is.place);
	set_slot(m, slot, is.flags | LOG, is.place);
}

/* Without a ring, ring operations have one constant answer, so few of them are enough. */
static bool idle(struct maker *m)
{
	return !m->ring_bytes && !one_in(m, 8);
}

static void take_all(struct maker *m)
{
	uint64_t vcpu;

	for (vcpu = 0; m->ring_bytes && vcpu < SIDE_VCPUS; vcpu++)
		emit(m, (struct op){ OP_TAKE, vcpu, MANY, !m->host->options.pml_entries });
}

static void take_some(struct maker *m)
{
	uint64_t vcpu = draw(m, SIDE_VCPUS), most = draw(m, 60);

	if (!idle(m))
		emit(m, (struct op){ OP_TAKE, vcpu, most, !m->host->options.pml_entries });
}

/* Without PML each store makes its entry at once, so the result of RESET is deterministic. */
static void reset(struct maker *m)
{
	if (idle(m))
		return;
	emit(m, (struct op){ m->host->options.pml_entries ? OP_RESET : OP_RESET_RAW });
}

static void go_on(struct maker *m, uint64_t vcpu)
{
	if (idle(m))
		return;
	if (!one_in(m, 8))
		take_all(m);
	if (!one_in(m, 8))
		reset(m);
	emit(m, (struct op){ OP_CONTINUE, vcpu });
}

/* Scripts that break the rules fill rings permanently, without many stores. */
static bool fills_rings(const struct maker *m)
{
	return m->ring_bytes && m->ring_bytes < LARGE_RING_BYTES && m->kind != SCRIPT_BROKEN;
}

static uint64_t most_stores(struct maker *m, uint64_t mode)
{
	if (mode == GUEST_KERNEL)
		return fills_rings(m) || one_in(m, 4) ? KERNEL_STORES : SMALL_STORES;
	return m->kind == SCRIPT_FULL || one_in(m, 8) ? SIDE_SLOT_PAGES : SMALL_STORES;
}

static void write_some(struct maker *m)
{
	uint32_t slot = (uint32_t)draw(m, SIDE_SLOTS), tries;
	uint64_t vcpu = draw(m, SIDE_VCPUS), stride = one_in(m, 3) ? draw(m, 6) : 1;
	uint64_t mode = m->kind == SCRIPT_KERNEL && !one_in(m, 3) ? GUEST_KERNEL : GUEST_USER;
	uint64_t first, most, count;

	for (tries = 0; tries < 4 && (!m->slots[slot].there || m->slots[slot].flags != LOG);
	     tries++)
		slot = (uint32_t)draw(m, SIDE_SLOTS);
	first = draw(m, m->slots[slot].pages);
	most = stride ? (m->slots[slot].pages - first + stride - 1) / stride : KERNEL_STORES;
	count = 1 + draw(m, most_stores(m, mode));
	if (count > most)
		count = most;
	if (one_in(m, 20)) /* past the end of the slot */
		count += draw(m, 4);
	emit(m, (struct op){ OP_WRITE, vcpu, m->slots[slot].place * SIDE_SLOT_PAGES + first, count,
			     stride, ++m->value, mode });
	if (m->ring_bytes && m->ring_bytes < LARGE_RING_BYTES &&
	    (m->kind == SCRIPT_KERNEL ? one_in(m, 3) : !one_in(m, 4)))
		go_on(m, vcpu);
}

static void look_at_bitmap(struct maker *m)
{
	uint64_t slot = one_in(m, 20) ? draw(m, 1 << 18) : slot_name((uint32_t)draw(m, SLOTS));
	uint64_t unit = one_in(m, 4) ? 32 : 64, first = draw(m, 5) * unit;
	uint64_t pages = one_in(m, 2) ? draw(m, 200) : draw(m, 4) * 64;
	uint64_t word = one_in(m, 3) ? ANY_WORD : random_next(&m->random);

	if (one_in(m, 2))
		emit(m, (struct op){ OP_GET, slot, one_in(m, 8) });
	else
		emit(m, (struct op){ OP_CLEAR, slot, first, pages, word });
}

/*
 * With a ring, "initially set" leaves pages writable; which ones depends on what the x86 MMU has
 * mapped in advance.
 */
static void manual_protect(struct maker *m)
{
	bool any = !m->ring_bytes || m->host->options.arch == DL_OS_ARCH_RING_NEEDS_BACKUP;
	uint64_t value = one_in(m, 16) ? 4 + draw(m, 8) : draw(m, any ? 4 : 2);

	emit(m, (struct op){ OP_ENABLE, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, value, one_in(m, 16) });
}

/* Releases cells that hold no entry, skips entries, stores meaningless flags. */
static void break_rules(struct maker *m)
{
	static const uint64_t flags[] = { 0, 1, 2, 3, 0xabcd0002, 0xfffffffd, 0x80000001, 4 };
	uint64_t vcpu = draw(m, SIDE_VCPUS);
	uint64_t cell = one_in(m, 8) ? draw(m, 256) : draw(m, 4);
	uint64_t by = one_in(m, 4) ? 0xffffffff : 1 + draw(m, 3);

	if (one_in(m, 3))
		emit(m, (struct op){ OP_SKIP, vcpu, by });
	else
		emit(m, (struct op){ OP_FLAGS, vcpu, cell,
				     flags[draw(m, sizeof(flags) / sizeof(flags[0]))] });
}

static void anything(struct maker *m)
{
	static const uint64_t caps[] = { KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
					 KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
					 KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 };
	uint64_t cap = caps[draw(m, 4)], number = draw(m, 6), bit = draw(m, 2);

	switch (draw(m, 4)) {
	case 0:
		emit(m, (struct op){ OP_CHECK, cap, bit });
		break;
	case 1:
		if (cap != KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)
			emit(m, (struct op){ OP_ENABLE, cap, 4096ULL << number, bit });
		break;
	case 2:
		emit(m, (struct op){ OP_IOCTL, number % 3, KVM_RESET_DIRTY_RINGS });
		break;
	default:
		emit(m, (struct op){ OP_MMAP, bit, 63 + number % 3, 1 + number / 2, PROT_READ,
				     one_in(m, 2) ? MAP_PRIVATE : MAP_SHARED });
	}
}

static void step(struct maker *m)
{
	uint64_t chance = draw(m, 100);

	if (chance < 16)
		change_slot(m);
	else if (chance < 20)
		protect_again(m);
	else if (chance < (m->ring_bytes && !m->backup ? 24 : 45))
		look_at_bitmap(m);
	else if (chance < 49)
		manual_protect(m);
	else if (chance < 51)
		anything(m);
	else if (chance < 56)
		take_some(m);
	else if (chance < 60)
		reset(m);
	else if (chance < 66)
		take_all(m);
	else if (chance < 70)
		go_on(m, draw(m, SIDE_VCPUS));
	else if (chance < 80 && m->kind == SCRIPT_BROKEN)
		break_rules(m);
	else
		write_some(m);
}

static void choose_ring(struct maker *m)
{
	uint64_t small = m->host->options.ring_min_bytes;

	if (m->kind == SCRIPT_RING)
		m->ring_bytes = LARGE_RING_BYTES;
	else if (m->kind != SCRIPT_BITMAP)
		m->ring_bytes = small;
	if (m->kind == SCRIPT_KERNEL)
		m->ring_bytes = one_in(m, 3) ? 0 : one_in(m, 2) ? small : LARGE_RING_BYTES;
	if (!(m->host->options.has & MODEL_HAS_RING_ACQ_REL))
		m->ring_bytes = 0;
	m->backup = m->ring_bytes && (m->host->options.has & MODEL_HAS_BACKUP) && !one_in(m, 4);
}

/* Mostly in the order that KVM requires. */
static void begin(struct maker *m)
{
	struct op ops[] = {
		{ OP_ENABLE, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, m->ring_bytes, draw(m, 2) },
		{ OP_ENABLE, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_VCPU },
	};
	uint32_t i, count = sizeof(ops) / sizeof(ops[0]);

	if (one_in(m, 16)) {
		uint32_t a = (uint32_t)draw(m, count), b = (uint32_t)draw(m, count);
		struct op swap = ops[a];

		ops[a] = ops[b];
		ops[b] = swap;
	}
	for (i = 0; i < count; i++)
		if ((m->ring_bytes || ops[i].a != KVM_CAP_DIRTY_LOG_RING_ACQ_REL) &&
		    (m->backup || ops[i].a != KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP))
			emit(m, ops[i]);
	for (i = 0; i < SIDE_SLOTS; i++)
		if (!one_in(m, 4))
			create_slot(m, i, one_in(m, 4) ? 0 : LOG, i);
}

/* Writing every page shows which ones are protected. */
static void end(struct maker *m)
{
	uint32_t slot, i;

	take_all(m);
	reset(m);
	for (slot = 0; slot < SIDE_SLOTS; slot++) {
		if (!m->slots[slot].there)
			continue;
		emit(m, (struct op){ OP_WRITE, slot % SIDE_VCPUS,
				     m->slots[slot].place * SIDE_SLOT_PAGES, m->slots[slot].pages,
				     1, ++m->value });
		for (i = 0; i < 2 && m->ring_bytes; i++) {
			take_all(m);
			reset(m);
			emit(m, (struct op){ OP_CONTINUE, slot % SIDE_VCPUS });
		}
		emit(m, (struct op){ OP_GET, slot });
	}
	take_all(m);
	reset(m);
}

void script_make(struct script *script, enum script_kind kind, uint64_t seed,
		 const struct script_host *host)
{
	static const uint64_t small[SLOTS] = { 100, 130, 64, 100 };
	static const uint64_t large[SLOTS] = { SIDE_SLOT_PAGES, 300, 64, 100 };
	struct maker m = { .script = script, .kind = kind, .host = host };
	uint32_t i, last;

	script->count = 0;
	m.random.state = (seed * SCRIPT_KINDS + (uint64_t)kind + 1) * 0x9e3779b97f4a7c15ULL | 1;
	for (i = 0; i < 8; i++)
		random_next(&m.random);
	choose_ring(&m);
	for (i = 0; i < SLOTS; i++)
		m.slots[i].pages = m.most_pages[i] = fills_rings(&m) ? large[i] : small[i];
	begin(&m);
	last = script->count + BODY_OPS;
	while (script->count < last)
		step(&m);
	end(&m);
}
