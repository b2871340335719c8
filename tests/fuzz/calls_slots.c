/* SPDX-License-Identifier: MIT */
/* dl_slot_set(), dl_slot_remove() and dl_mark_*() with any values. */
#include "calls.h"

#include <errno.h>
#include <sys/uio.h>

enum {
	KERNEL_DECIDES = 1, /* 0 or -EINVAL */
	TOO_LARGE,	    /* valid, but too slow to try */
};

#define KVM_PAGES_LIMIT ((UINT64_C(1) << 31) - 1)

static const uint32_t set_flags =
	DL_SLOT_PAUSED | DL_SLOT_CLEAN | DL_SLOT_EXISTS | DL_SLOT_NO_LOG | DL_SLOT_WANTED;

static bool overlaps_other(struct world *w, const struct dl_slot *s)
{
	for (unsigned int i = 0; i < w->slot_count; i++) {
		const struct dl_slot *other = &w->slots[i];

		if (other->slot >> 16 != s->slot >> 16 || other->slot == s->slot)
			continue;
		/* Compares last bytes, since an end may be 2^64. */
		if (s->gpa <= other->gpa + (other->bytes - 1) &&
		    other->gpa <= s->gpa + (s->bytes - 1))
			return true;
	}
	return false;
}

static bool is_valid(const struct world *w, const struct dl_slot *s)
{
	uint64_t page_bytes = w->page_bytes;

	if (s->flags & ~set_flags || s->kvm_flags & KVM_MEM_LOG_DIRTY_PAGES)
		return false;
	if (s->flags & DL_SLOT_EXISTS && s->flags & DL_SLOT_CLEAN)
		return false;
	if (s->slot >> 16 >= ADDRESS_SPACES || (s->slot & 0xffff) >= SLOT_IDS)
		return false;
	if (!s->bytes || s->bytes % page_bytes || s->gpa % page_bytes || s->hva % page_bytes)
		return false;
	/* Neither may end at 2^64. */
	return s->gpa + s->bytes > s->gpa && s->hva + s->bytes > s->hva &&
	       s->bytes / page_bytes <= KVM_PAGES_LIMIT;
}

/* The result that the header documents. */
static int expected_set(struct world *w, const struct dl_slot *s, bool tail)
{
	const struct dl_slot *old;

	if (s->size < sizeof(*s))
		return -EINVAL;
	if (tail)
		return -E2BIG;
	if (!is_valid(w, s))
		return -EINVAL;
	if (overlaps_other(w, s))
		return -EEXIST;
	old = world_slot(w, s->slot);
	if (old && (old->bytes != s->bytes || old->hva != s->hva ||
		    (old->kvm_flags ^ s->kvm_flags) & KVM_MEM_READONLY ||
		    (old->flags ^ s->flags) & DL_SLOT_NO_LOG))
		return -EINVAL;
	if (old && old->gpa == s->gpa && old->kvm_flags == s->kvm_flags)
		return 0;
	if (s->bytes / w->page_bytes > MAX_SLOT_PAGES)
		return TOO_LARGE;
	if (s->kvm_flags & ~KVM_MEM_READONLY)
		return KERNEL_DECIDES;
	return !old && w->slot_count == MAX_SLOTS ? TOO_LARGE : 0;
}

/* Mostly a valid slot. The few numbers and addresses make slots collide. */
static void choose_slot(struct world *w, struct dl_slot *s)
{
	struct input *in = &w->in;
	uint64_t arena_pages = ARENA_BYTES / w->page_bytes, from, pages;
	uint8_t number = input_u8(in), place = input_u8(in), shape = input_u8(in);
	const struct dl_slot *old;

	from = place % arena_pages;
	pages = 1 + shape % 64 * (shape & 64 ? 1 : 3);
	if (pages > arena_pages - from)
		pages = arena_pages - from;
	*s = (struct dl_slot){
		.size = sizeof(*s),
		.flags = number >> 4 & (DL_SLOT_CLEAN | DL_SLOT_NO_LOG),
		.slot = number % 8 | (number & 8 ? 1u << 16 : 0),
		.gpa = input_u8(in) * UINT64_C(40) * w->page_bytes,
		.bytes = pages * w->page_bytes,
		.hva = (uintptr_t)w->arena + from * w->page_bytes,
	};
	old = world_slot(w, s->slot);
	if (old && shape & 128) {
		s->bytes = old->bytes;
		s->hva = old->hva;
		s->flags = (s->flags & DL_SLOT_CLEAN) | old->flags;
	}
	if (number & 128)
		s->flags |= s->flags & DL_SLOT_CLEAN ? DL_SLOT_WANTED : DL_SLOT_EXISTS;
}

/* Moves the slot to just after another one, just before it, or onto its last page. */
static void put_beside(struct world *w, struct dl_slot *s, uint8_t where)
{
	const struct dl_slot *other;

	if (!w->slot_count)
		return;
	other = &w->slots[where / 4 % w->slot_count];
	s->slot = (s->slot & 0xffff) | (other->slot & ~UINT32_C(0xffff));
	if (where & 1)
		s->gpa = other->gpa - s->bytes;
	else
		s->gpa = other->gpa + other->bytes - (where & 2 ? w->page_bytes : 0);
}

static void spoil(struct world *w, struct dl_slot *s)
{
	struct input *in = &w->in;

	switch (input_u8(in) % 12) {
	case 0:
		s->flags = (uint32_t)input_wild(in);
		break;
	case 1:
		s->slot = (uint32_t)input_wild(in);
		break;
	case 2:
		s->kvm_flags = (uint32_t)input_wild(in);
		break;
	case 3:
		s->gpa = input_wild(in);
		break;
	case 4:
		s->bytes = input_wild(in);
		break;
	case 5:
		s->hva = input_wild(in);
		break;
	case 6:
		s->gpa = 0 - s->bytes * (1 + input_u8(in) % 2);
		break;
	case 7:
		s->kvm_flags = KVM_MEM_READONLY;
		break;
	case 8:
		s->bytes = w->page_bytes * (uint64_t)(1 + input_u8(in) * 257);
		s->hva = UINT64_C(1) << 40;
		break;
	case 9 ... 11:
		put_beside(w, s, input_u8(in));
		break;
	}
}

/* Extents of a slot that has changed mean nothing any more. */
static void forget_handed(struct world *w, uint32_t slot)
{
	for (unsigned int i = 0; i < w->handed_count; i++)
		w->handed[i].gone |= w->handed[i].slot == slot;
}

/* Applies a successful dl_slot_set() to the caller's state. */
static void apply_set(struct world *w, const struct dl_slot *s)
{
	struct dl_slot *old = world_slot(w, s->slot);
	bool is_new = !old, moved = old && old->gpa != s->gpa;
	bool logged = w->cursor && !(s->flags & DL_SLOT_NO_LOG);

	if (is_new)
		old = &w->slots[w->slot_count++];
	else if (!moved && old->kvm_flags == s->kvm_flags)
		return;
	*old = *s;
	old->flags &= DL_SLOT_NO_LOG;
	if (moved)
		forget_handed(w, s->slot);
	/* While a pass is open nobody can know that the slot is clean. */
	if (is_new && logged && s->flags & DL_SLOT_CLEAN && !w->in_pass)
		world_equalize(w, s);
	else if (logged && (is_new || moved))
		world_excuse(w, s, false);
}

void slots_set(struct world *w)
{
	struct {
		struct dl_slot slot;
		uint8_t tail[TAIL_BYTES];
	} arg = { 0 };
	struct snapshot before;
	uint8_t how = input_u8(&w->in);
	int expected, r;

	choose_slot(w, &arg.slot);
	for (int i = how % 4; i > 1; i--)
		spoil(w, &arg.slot);
	if (how & 16)
		arg.slot.size = input_u8(&w->in) % (sizeof(arg) + 1);
	if (how & 32)
		arg.tail[input_u8(&w->in) % TAIL_BYTES] = input_u8(&w->in);
	expected = expected_set(w, &arg.slot,
				arg.slot.size > sizeof(arg.slot) &&
					memcmp(arg.tail, (uint8_t[TAIL_BYTES]){ 0 },
					       arg.slot.size - sizeof(arg.slot)));
	if (expected == TOO_LARGE)
		return;
	/* The log adopts it. */
	if (expected >= 0 && arg.slot.flags & DL_SLOT_EXISTS && !world_slot(w, arg.slot.slot) &&
	    world_region(w, &arg.slot, arg.slot.bytes, arg.slot.kvm_flags))
		return;
	if (arg.slot.flags & DL_SLOT_PAUSED)
		world_stop_vcpus(w);
	if (expected)
		world_snapshot(w, &before);
	r = dl_slot_set(w->log, &arg.slot);
	trace("set slot %#x, flags %#x, %#llx bytes at %#llx: %d\n", arg.slot.slot, arg.slot.flags,
	      (unsigned long long)arg.slot.bytes, (unsigned long long)arg.slot.gpa, r);
	expect(expected == KERNEL_DECIDES ? !r || r == -EINVAL : r == expected, "%d, expected %d",
	       r, expected);
	if (!r)
		apply_set(w, &arg.slot);
	else if (expected != KERNEL_DECIDES || !(arg.slot.flags & DL_SLOT_EXISTS))
		world_expect_same(w, &before);
}

/* Sends the pages that the removal has put into the words. */
static void send_words(struct world *w, const struct dl_slot *slot, const uint64_t *words)
{
	for (uint64_t page = 0; page < slot->bytes / w->page_bytes; page++) {
		const struct dl_extent extent = {
			.gpa = slot->gpa + page * w->page_bytes,
			.hva = slot->hva + page * w->page_bytes,
			.offset_bytes = page * w->page_bytes,
			.bytes = w->page_bytes,
			.slot = slot->slot,
		};

		if (words[page / 64] >> page % 64 & 1)
			world_copy_run(w, &extent);
	}
}

void slots_remove(struct world *w)
{
	static uint64_t words[MAX_SLOT_PAGES / 64 + 1];
	uint8_t how = input_u8(&w->in);
	uint32_t flags = how & DL_REMOVE_PAUSED, number = input_u8(&w->in) & 7;
	bool with_words = how & 2;
	struct snapshot before;
	struct dl_slot *slot;
	int expected = 0, r;

	if (how & 16)
		flags = (uint32_t)input_wild(&w->in);
	number |= how & 32 ? 1u << 16 : 0;
	if (how & 64)
		number = (uint32_t)input_wild(&w->in);
	slot = world_slot(w, number);
	if (flags & ~(uint32_t)DL_REMOVE_PAUSED)
		expected = -EINVAL;
	else if (!slot)
		expected = -ENOENT;
	if (flags & DL_REMOVE_PAUSED)
		world_stop_vcpus(w);
	if (expected)
		world_snapshot(w, &before);
	memset(words, 0, sizeof(words));
	r = dl_slot_remove(w->log, number, flags, with_words ? words : NULL,
			   with_words ? sizeof(words) / sizeof(words[0]) : 0);
	trace("remove slot %#x, flags %u: %d\n", number, flags, r);
	expect(r == expected, "%d, expected %d", r, expected);
	if (r) {
		world_expect_same(w, &before);
		return;
	}
	forget_handed(w, number);
	watches_forget(w, number);
	if (w->cursor && with_words)
		send_words(w, slot, words);
	else if (w->cursor)
		world_excuse(w, slot, true);
	*slot = w->slots[--w->slot_count];
}

/* The slot at the address. *until: its last byte or, without one, the last before the next slot. */
static struct dl_slot *slot_at(struct world *w, uint32_t as_id, uint64_t gpa, uint64_t *until)
{
	*until = UINT64_MAX;
	for (unsigned int i = 0; i < w->slot_count; i++) {
		struct dl_slot *slot = &w->slots[i];

		if (slot->slot >> 16 != as_id)
			continue;
		if (gpa >= slot->gpa && gpa - slot->gpa < slot->bytes) {
			*until = slot->gpa + (slot->bytes - 1);
			return slot;
		}
		if (slot->gpa > gpa && slot->gpa - 1 < *until)
			*until = slot->gpa - 1;
	}
	return NULL;
}

bool slots_device_writes(struct world *w, uint32_t as_id, uint64_t gpa, uint64_t bytes)
{
	uint64_t last = gpa + (bytes - 1), until;
	bool all = true;

	for (;; gpa = until + 1) {
		const struct dl_slot *slot = slot_at(w, as_id, gpa, &until);

		until = until < last ? until : last;
		all &= slot != NULL;
		/* Marks of memory that KVM cannot log are not recorded. */
		if (slot && slot->flags & DL_SLOT_NO_LOG)
			slot = NULL;
		for (uint64_t at = gpa / w->page_bytes; slot && at <= until / w->page_bytes; at++) {
			uint64_t hva = slot->hva + (at * w->page_bytes - slot->gpa);

			if (world_in_arena(w, hva))
				*world_memory(w, hva) = ++w->value;
		}
		if (until == last)
			return all;
	}
}

static void mark_by_address(struct world *w, uint32_t as_id, uint64_t gpa, uint64_t bytes)
{
	int expected = 0, r;

	if (gpa + bytes < gpa)
		expected = -EINVAL;
	else if (bytes && world_records(w) && !slots_device_writes(w, as_id, gpa, bytes))
		expected = -ENOENT;
	r = dl_mark_gpa(w->log, as_id, gpa, bytes);
	trace("mark %u %#llx %#llx: %d\n", as_id, (unsigned long long)gpa,
	      (unsigned long long)bytes, r);
	expect(r == expected, "%d, expected %d", r, expected);
}

static void mark_by_slot(struct world *w, uint32_t number, uint64_t offset, uint64_t bytes)
{
	const struct dl_slot *slot = world_slot(w, number);
	int expected = 0, r;

	if (offset + bytes < offset)
		expected = -EINVAL;
	else if (!world_records(w))
		expected = 0;
	else if (!slot || (bytes && (offset >= slot->bytes || bytes > slot->bytes - offset)))
		expected = -ENOENT;
	if (world_records(w) && slot && expected != -EINVAL && bytes && offset < slot->bytes)
		slots_device_writes(w, number >> 16, slot->gpa + offset,
				    bytes < slot->bytes - offset ? bytes : slot->bytes - offset);
	r = dl_mark_slot(w->log, number, offset, bytes);
	trace("mark slot %#x %#llx %#llx: %d\n", number, (unsigned long long)offset,
	      (unsigned long long)bytes, r);
	expect(r == expected, "%d, expected %d", r, expected);
}

/* A device writes the bytes, through every slot that maps them. True if some slot maps each. */
static bool device_writes_hva(struct world *w, uint64_t hva, uint64_t bytes)
{
	uint64_t last = (hva + (bytes - 1)) / w->page_bytes;
	bool all = true;

	for (uint64_t page = hva / w->page_bytes; page <= last; page++) {
		uint64_t at = page * w->page_bytes;
		bool mapped = false, logged = false;

		for (unsigned int i = 0; i < w->slot_count; i++) {
			const struct dl_slot *slot = &w->slots[i];

			if (at < slot->hva || at - slot->hva >= slot->bytes)
				continue;
			mapped = true;
			logged |= !(slot->flags & DL_SLOT_NO_LOG);
		}
		all &= mapped;
		if (logged && world_in_arena(w, at))
			*world_memory(w, at) = ++w->value;
	}
	return all;
}

/* An address in the arena or just outside it: elsewhere is no memory to write. */
static uint64_t some_address(struct world *w, struct input *in)
{
	return (uintptr_t)w->arena - w->page_bytes +
	       input_number(in, 4) % (ARENA_BYTES + 2 * w->page_bytes);
}

static void mark_by_hva(struct world *w, uint64_t hva, uint64_t bytes)
{
	int expected = 0, r;

	if (hva + bytes < hva)
		expected = -EINVAL;
	else if (bytes > 2 * ARENA_BYTES)
		return; /* slow to compare */
	else if (bytes && world_records(w) && !device_writes_hva(w, hva, bytes))
		expected = -ENOENT;
	r = dl_mark_hva(w->log, (void *)(uintptr_t)hva, bytes);
	trace("mark hva %#llx %#llx: %d\n", (unsigned long long)hva, (unsigned long long)bytes, r);
	expect(r == expected, "%d, expected %d", r, expected);
}

static bool vectors_wrap(const struct iovec *iov, uint32_t n)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < n; i++) {
		if ((uintptr_t)iov[i].iov_base > UINT64_MAX - iov[i].iov_len ||
		    total > UINT64_MAX - iov[i].iov_len)
			return true;
		total += iov[i].iov_len;
	}
	return false;
}

/* Byte by byte of the vectors as if they were one buffer, in pieces that lie in one vector. */
static bool device_writes_vectors(struct world *w, const struct iovec *iov, uint32_t n,
				  uint64_t offset, uint64_t bytes)
{
	uint64_t begin = 0;
	bool all = true;

	for (uint32_t i = 0; i < n; begin += iov[i++].iov_len) {
		uint64_t from = offset > begin ? offset : begin, to = begin + iov[i].iov_len;

		to = offset + bytes < to ? offset + bytes : to;
		if (from < to &&
		    !device_writes_hva(w, (uintptr_t)iov[i].iov_base + from - begin, to - from))
			all = false;
	}
	return all && (!bytes || offset + bytes <= begin);
}

static void mark_by_iov(struct world *w, uint64_t offset, uint64_t bytes)
{
	struct input *in = &w->in;
	struct iovec iov[4];
	uint32_t n = input_u8(in) % 5;
	int expected = 0, r;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t length = input_number(in, 2);

		iov[i].iov_base = (void *)(uintptr_t)some_address(w, in);
		iov[i].iov_len = length == 0xffff ? SIZE_MAX - 5 : length;
	}
	if (offset + bytes < offset || vectors_wrap(iov, n))
		expected = -EINVAL;
	else if (world_records(w) && !device_writes_vectors(w, iov, n, offset, bytes))
		expected = -ENOENT;
	r = dl_mark_iov(w->log, iov, n, offset, bytes);
	trace("mark iov %u %#llx %#llx: %d\n", n, (unsigned long long)offset,
	      (unsigned long long)bytes, r);
	expect(r == expected, "%d, expected %d", r, expected);
}

void slots_mark(struct world *w)
{
	struct input *in = &w->in;
	uint8_t how = input_u8(in);
	const struct dl_slot *slot = NULL;
	uint64_t offset = input_number(in, 2) * 512, bytes = input_number(in, 2) * 64;
	struct snapshot before;

	if (w->slot_count)
		slot = &w->slots[how / 8 % w->slot_count];
	if (how & 1)
		offset = input_wild(in);
	if (how & 2)
		bytes = input_wild(in);
	if (!world_records(w))
		world_snapshot(w, &before);
	if (how >= 232)
		slots_mark_bitmap(w, slot);
	else if (how & 128 && how < 168)
		mark_by_hva(w, how & 1 ? offset : some_address(w, in), bytes);
	else if (how & 128 && how < 200)
		mark_by_iov(w, offset, bytes);
	else if (how & 4)
		mark_by_slot(w, slot && how < 200 ? slot->slot : (uint32_t)input_wild(in), offset,
			     bytes);
	else if (slot && how < 200)
		mark_by_address(w, slot->slot >> 16, slot->gpa + offset, bytes);
	else
		mark_by_address(w, (uint32_t)input_wild(in), offset, bytes);
	if (!world_records(w))
		world_expect_same(w, &before);
}
