// SPDX-License-Identifier: MIT

package dirtylog

/*
#include <dirtylog/dirtylog.h>

// A handle as a number: cgo's check of a pointer to an opaque struct allocates.
static int read_extents(uintptr_t cursor, struct dl_extent *extents, uint32_t max_extents)
{
	return dl_cursor_read((struct dl_cursor *)cursor, extents, max_extents);
}

static int ack_extents(uintptr_t cursor, const struct dl_extent *extents, uint32_t n_extents)
{
	return dl_cursor_ack((struct dl_cursor *)cursor, extents, n_extents);
}
*/
import "C"

import (
	"sync"
	"unsafe"
)

// CursorOptions says what a cursor covers. The zero value: all slots, all pending.
type CursorOptions struct {
	Flags          CursorFlags
	VCPUs          uint32 // of the VM now: fewer that were added are EBUSY; 0: not given
	Slot           uint32 // for CursorOneSlot
	CoalesceBytes  uint64 // join extents over clean gaps up to this; 0: never
	MaxExtentBytes uint64 // of one extent, rounded down to pages; 0: no limit
}

// Cursor is one consumer: what changed since it last committed.
type Cursor struct {
	log *Log
	mu  sync.RWMutex
	c   *C.struct_dl_cursor
}

// NewCursor adds a consumer, and switches logging on for what it covers and nobody logs yet.
func (l *Log) NewCursor(options CursorOptions) (*Cursor, error) {
	o := C.struct_dl_cursor_options{
		size:             C.sizeof_struct_dl_cursor_options,
		flags:            C.uint32_t(options.Flags),
		vcpus:            C.uint32_t(options.VCPUs),
		slot:             C.uint32_t(options.Slot),
		coalesce_bytes:   C.uint64_t(options.CoalesceBytes),
		max_extent_bytes: C.uint64_t(options.MaxExtentBytes),
	}
	cursor := &Cursor{log: l}
	_, err := l.call("new cursor", func(c *C.struct_dl_log) C.int {
		return C.dl_cursor_new(c, &o, &cursor.c)
	})
	if err != nil {
		return nil, err
	}
	return cursor, nil
}

// Close removes the consumer, its pass, and logging that no other cursor wants.
func (cursor *Cursor) Close() error {
	cursor.mu.Lock()
	defer cursor.mu.Unlock()
	if cursor.c != nil {
		C.dl_cursor_free(cursor.c)
	}
	cursor.c = nil
	return nil
}

func (cursor *Cursor) number() C.uintptr_t {
	return C.uintptr_t(uintptr(unsafe.Pointer(cursor.c)))
}

// Makes a call unless the cursor is closed.
func (cursor *Cursor) call(op string, f func(c *C.struct_dl_cursor) C.int) (int, error) {
	cursor.mu.RLock()
	defer cursor.mu.RUnlock()
	if cursor.c == nil {
		return 0, closedError(op)
	}
	r := f(cursor.c)
	if r < 0 {
		return 0, cursor.log.errorOf(op, r)
	}
	return int(r), nil
}

// Harvest begins a pass: it collects what was dirtied, and protects it again. It returns what the
// pass can hand out. EBUSY: a pass is open. After an error no pass is open.
func (cursor *Cursor) Harvest(flags HarvestFlags) (uint64, error) {
	var pending C.uint64_t
	_, err := cursor.call("harvest", func(c *C.struct_dl_cursor) C.int {
		return C.dl_harvest(c, C.uint32_t(flags), &pending)
	})
	return uint64(pending), err
}

// Read hands out pending memory of the open pass: as many extents as there is room for. It returns
// how many; 0: the pass has no more. Their contents may be read once it has returned. It allocates
// nothing, so use the slice again. Several goroutines may read: each page goes to one of them.
func (cursor *Cursor) Read(extents []Extent) (int, error) {
	if len(extents) == 0 {
		return 0, nil
	}
	// As call(), without a closure: that would be an allocation.
	cursor.mu.RLock()
	defer cursor.mu.RUnlock()
	if cursor.c == nil {
		return 0, closedError("read")
	}
	r := C.read_extents(cursor.number(), cExtents(extents), C.uint32_t(len(extents)))
	if r < 0 {
		return 0, cursor.log.errorOf("read", r)
	}
	return int(r), nil
}

// Ack commits extents, or parts of them: their contents are sent, forget them. Any goroutine, any
// order. It allocates nothing.
func (cursor *Cursor) Ack(extents []Extent) error {
	if len(extents) == 0 {
		return nil
	}
	cursor.mu.RLock()
	defer cursor.mu.RUnlock()
	if cursor.c == nil {
		return closedError("ack")
	}
	if r := C.ack_extents(cursor.number(), cExtents(extents), C.uint32_t(len(extents))); r < 0 {
		return cursor.log.errorOf("ack", r)
	}
	return nil
}

// End ends the pass, for all goroutines. What is not acknowledged is pending again; EndCommit
// acknowledges all that was read. No pass open: nil.
func (cursor *Cursor) End(flags EndFlags) error {
	_, err := cursor.call("end", func(c *C.struct_dl_cursor) C.int {
		return C.dl_cursor_end(c, C.uint32_t(flags))
	})
	return err
}

// Take ors a slot's pending pages into words, a bit a page, and commits them: in a pass or outside.
// It returns how many bytes of memory they are. After an error, what is in words is the caller's,
// and the rest is pending: call it again.
func (cursor *Cursor) Take(slot uint32, flags TakeFlags, words []uint64) (uint64, error) {
	var taken C.uint64_t
	_, err := cursor.call("take", func(c *C.struct_dl_cursor) C.int {
		return C.dl_cursor_take(c, C.uint32_t(slot), C.uint32_t(flags), cWords(words),
			C.uint64_t(len(words)), &taken)
	})
	return uint64(taken), err
}

// Stats reports this cursor's counters.
func (cursor *Cursor) Stats() (CursorStats, error) {
	stats := C.struct_dl_cursor_stats{size: C.sizeof_struct_dl_cursor_stats}
	_, err := cursor.call("cursor stats", func(c *C.struct_dl_cursor) C.int {
		return C.dl_cursor_stats(c, &stats)
	})
	return CursorStats{
		PendingBytes: uint64(stats.pending_bytes),
		UnackedBytes: uint64(stats.unacked_bytes),
		ReadBytes:    uint64(stats.read_bytes),
		AckedBytes:   uint64(stats.acked_bytes),
		Passes:       uint64(stats.passes),
	}, err
}
