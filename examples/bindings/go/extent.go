// SPDX-License-Identifier: MIT

package dirtylog

// #include <dirtylog/dirtylog.h>
import "C"

import "unsafe"

// Extent is adjacent dirty pages of one slot. It has the layout of C's struct dl_extent, so that a
// slice of them is read without a copy.
type Extent struct {
	GPA         uint64 // guest physical address of the first byte
	HVA         uint64 // its address in this process, for system calls such as writev(2)
	OffsetBytes uint64 // from the start of the slot
	Bytes       uint64 // a multiple of the page size
	Cookie      uint64 // Slot.Cookie
	Ticket      uint64 // the library's: leave it as it is
	Slot        uint32 // as_id << 16 | id, when the pass began
	Flags       ExtentFlags
	reserved    uint64
}

// In returns the extent's part of the slot's memory. The guest writes to it at any moment: copy it,
// and do not decide by what is in it. What is written meanwhile is in the next pass again.
func (e *Extent) In(memory []byte) []byte {
	return memory[e.OffsetBytes : e.OffsetBytes+e.Bytes]
}

// Part returns part of an extent, to be sent and acknowledged by itself. It has to be inside, and
// made of pages.
func (e *Extent) Part(offsetBytes, bytes uint64) Extent {
	part := *e
	part.GPA += offsetBytes
	part.HVA += offsetBytes
	part.OffsetBytes += offsetBytes
	part.Bytes = bytes
	return part
}

func cExtents(extents []Extent) *C.struct_dl_extent {
	return (*C.struct_dl_extent)(unsafe.Pointer(&extents[0]))
}

// An index other than 0 does not compile: the two structs have the same layout.
var (
	goExtent Extent
	cExtent  C.struct_dl_extent

	_ = [1]int{}[unsafe.Sizeof(goExtent)-unsafe.Sizeof(cExtent)]
	_ = [1]int{}[unsafe.Offsetof(goExtent.GPA)-unsafe.Offsetof(cExtent.gpa)]
	_ = [1]int{}[unsafe.Offsetof(goExtent.HVA)-unsafe.Offsetof(cExtent.hva)]
	_ = [1]int{}[unsafe.Offsetof(goExtent.OffsetBytes)-unsafe.Offsetof(cExtent.offset_bytes)]
	_ = [1]int{}[unsafe.Offsetof(goExtent.Bytes)-unsafe.Offsetof(cExtent.bytes)]
	_ = [1]int{}[unsafe.Offsetof(goExtent.Cookie)-unsafe.Offsetof(cExtent.cookie)]
	_ = [1]int{}[unsafe.Offsetof(goExtent.Ticket)-unsafe.Offsetof(cExtent.ticket)]
	_ = [1]int{}[unsafe.Offsetof(goExtent.Slot)-unsafe.Offsetof(cExtent.slot)]
	_ = [1]int{}[unsafe.Offsetof(goExtent.Flags)-unsafe.Offsetof(cExtent.flags)]
	_ = [1]int{}[unsafe.Offsetof(goExtent.reserved)-unsafe.Offsetof(cExtent.reserved)]
)
