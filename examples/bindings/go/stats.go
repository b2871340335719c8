// SPDX-License-Identifier: MIT

package dirtylog

// #include <dirtylog/dirtylog.h>
import "C"

import (
	"time"
	"unsafe"
)

// Stats are the counters of a log since Open, or of a vCPU since AddVCPU.
type Stats struct {
	LimitedVCPUs          uint32        // now under a limit
	Entries               uint64        // ring entries harvested
	NewPages              uint64        // found dirty, not pending before
	Duplicates            uint64        // ring entries of pages already dirty
	StaleEntries          uint64        // ring entries of slots that are gone
	Resets                uint64        // KVM_RESET_DIRTY_RINGS calls
	ShortResets           uint64        // resets that left released entries behind
	Overflows             uint64        // rings found overflowed or out of step
	Repairs               uint64        // harvests that made everything pending for it
	FullExits             uint64        // drains that answered a full ring
	HighWaterEntries      uint64        // most entries found in one ring at once
	Ioctl                 time.Duration // in RESET, GET, CLEAR and slot ioctls
	DirtyBytesPerSecond   uint64        // newly dirtied, over the last second of running
	Paused                time.Duration // pauses that limits asked for
	WatchedBytes          uint64        // found by watches; 0 for a vCPU
	MissedBytes           uint64        // of these, never marked; 0 for a vCPU
	LateMarks             uint64        // pages marked while a paused pass was open
	RepairBytes           uint64        // made pending by repairs
	FailedMarks           uint64        // marks that were ENOENT; 0 for a vCPU
	WrittenBytesPerSecond uint64        // as DirtyBytesPerSecond, pages already dirty included
}

func newStats() C.struct_dl_stats {
	return C.struct_dl_stats{size: C.sizeof_struct_dl_stats}
}

func statsOf(c *C.struct_dl_stats) Stats {
	return Stats{
		LimitedVCPUs:          uint32(c.limited_vcpus),
		Entries:               uint64(c.entries),
		NewPages:              uint64(c.new_pages),
		Duplicates:            uint64(c.duplicates),
		StaleEntries:          uint64(c.stale_entries),
		Resets:                uint64(c.resets),
		ShortResets:           uint64(c.short_resets),
		Overflows:             uint64(c.overflows),
		Repairs:               uint64(c.repairs),
		FullExits:             uint64(c.full_exits),
		HighWaterEntries:      uint64(c.high_water_entries),
		Ioctl:                 time.Duration(c.ioctl_ns),
		DirtyBytesPerSecond:   uint64(c.dirty_bytes_per_s),
		Paused:                time.Duration(c.paused_ns),
		WatchedBytes:          uint64(c.watched_bytes),
		MissedBytes:           uint64(c.missed_bytes),
		LateMarks:             uint64(c.late_marks),
		RepairBytes:           uint64(c.repair_bytes),
		FailedMarks:           uint64(c.failed_marks),
		WrittenBytesPerSecond: uint64(c.written_bytes_per_s),
	}
}

// CursorStats are one cursor's counters.
type CursorStats struct {
	PendingBytes uint64 // known dirty, not handed out
	UnackedBytes uint64 // handed out or read ahead, not acknowledged
	ReadBytes    uint64 // handed out, takes included
	AckedBytes   uint64 // acknowledged, takes included
	Passes       uint64 // begun
}

// An index other than 0 does not compile: each counter of C is one here. C's structs begin with
// their size, and those of a cursor with a reserved word.
var (
	_ = [1]int{}[unsafe.Sizeof(Stats{})-C.sizeof_struct_dl_stats]
	_ = [1]int{}[unsafe.Sizeof(CursorStats{})+8-C.sizeof_struct_dl_cursor_stats]
)
