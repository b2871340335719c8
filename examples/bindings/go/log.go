// SPDX-License-Identifier: MIT

package dirtylog

// #include <dirtylog/dirtylog.h>
// #include <sys/uio.h>
import "C"

import (
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Log is the dirty log of one VM.
type Log struct {
	mu sync.RWMutex     // held for reading by calls in progress
	c  *C.struct_dl_log // nil: closed
	fd struct {
		sync.Mutex
		file   *os.File // made by the first Wait
		closed bool
	}
}

// Open opens the log of a VM that has no vCPU and no memslot yet; in bitmap mode it may have. The
// descriptor is duplicated: the VM lives until the log and its last VCPU are closed.
func Open(vm int, options *Options) (*Log, error) {
	var why [whyBytes]C.char
	o := options.c()
	l := new(Log)
	if r := C.dl_log_open(C.int(vm), &o, &l.c, &why[0], whyBytes); r < 0 {
		return nil, newError("open", r, C.GoString(&why[0]))
	}
	return l, nil
}

// Close stops logging. Calls in progress end first; those that Wait get os.ErrClosed.
func (l *Log) Close() error {
	l.closeFile()
	l.mu.Lock()
	c := l.c
	l.c = nil
	l.mu.Unlock()
	if c != nil {
		C.dl_log_close(c)
	}
	return nil
}

// Makes a call unless the log is closed.
func (l *Log) call(op string, f func(c *C.struct_dl_log) C.int) (int, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.c == nil {
		return 0, closedError(op)
	}
	r := f(l.c)
	if r < 0 {
		return 0, newError(op, r, l.lastError())
	}
	return int(r), nil
}

// Calls a function that writes text as snprintf(3) does, with as much room as it wants.
func text(write func(to *C.char, bytes C.size_t) C.int) string {
	for size := C.int(whyBytes); ; {
		buffer := make([]C.char, size)
		length := write(&buffer[0], C.size_t(size))
		if length < size {
			return C.GoString(&buffer[0])
		}
		size = length + 1
	}
}

// The caller holds mu.
func (l *Log) lastError() string {
	return text(func(to *C.char, bytes C.size_t) C.int {
		return C.dl_log_last_error(l.c, to, bytes)
	})
}

// The error of a call on another handle of this log.
func (l *Log) errorOf(op string, r C.int) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.c == nil {
		return newError(op, r, "the log is closed")
	}
	return newError(op, r, l.lastError())
}

// LastError returns the last failure of the log or of one of its handles; "": nothing has failed.
// An Error has these words already.
func (l *Log) LastError() string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.c == nil {
		return ""
	}
	return l.lastError()
}

// Describe returns mode, reason, the last failure and advice, in words.
func (l *Log) Describe() string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.c == nil {
		return "closed"
	}
	return text(func(to *C.char, bytes C.size_t) C.int {
		return C.dl_log_describe(l.c, to, bytes)
	})
}

// Config reports what is in use.
func (l *Log) Config() (Config, error) {
	config := C.struct_dl_config{size: C.sizeof_struct_dl_config}
	_, err := l.call("config", func(c *C.struct_dl_log) C.int {
		return C.dl_log_config(c, &config)
	})
	return configOf(&config), err
}

// Stats reports the log's counters, those of all vCPUs included.
func (l *Log) Stats() (Stats, error) {
	stats := newStats()
	_, err := l.call("stats", func(c *C.struct_dl_log) C.int {
		return C.dl_log_stats(c, &stats)
	})
	return statsOf(&stats), err
}

// Slot is a memslot.
type Slot struct {
	Slot     uint32 // as_id << 16 | id, as in KVM
	Flags    SlotFlags
	KVMFlags uint32 // KVM_MEM_*, except KVM_MEM_LOG_DIRTY_PAGES, which is the library's
	GPA      uint64 // guest physical address, page aligned
	// Memory is mapped (syscall.Mmap), never Go's own, which the garbage collector frees. It stays
	// mapped until RemoveSlot has returned nil, or the VM is gone. The guest writes to it.
	Memory []byte
	Cookie uint64 // the caller's; extents have it
}

func addressOf(memory []byte) uintptr {
	if len(memory) == 0 {
		return 0
	}
	return uintptr(unsafe.Pointer(&memory[0]))
}

// SetSlot creates a memslot, moves it, or changes its flags or cookie. A new size or memory: remove
// it first.
func (l *Log) SetSlot(slot Slot) error {
	s := C.struct_dl_slot{
		size:      C.sizeof_struct_dl_slot,
		flags:     C.uint32_t(slot.Flags),
		slot:      C.uint32_t(slot.Slot),
		kvm_flags: C.uint32_t(slot.KVMFlags),
		gpa:       C.uint64_t(slot.GPA),
		bytes:     C.uint64_t(len(slot.Memory)),
		hva:       C.uint64_t(addressOf(slot.Memory)),
		cookie:    C.uint64_t(slot.Cookie),
	}
	_, err := l.call("set slot", func(c *C.struct_dl_log) C.int {
		return C.dl_slot_set(c, &s)
	})
	return err
}

// RemoveSlot deletes a memslot. What some cursor had not acknowledged is ored into words, a bit a
// page; without RemovePaused, every page. Nil words: it is dropped.
func (l *Log) RemoveSlot(slot uint32, flags RemoveFlags, words []uint64) error {
	_, err := l.call("remove slot", func(c *C.struct_dl_log) C.int {
		return C.dl_slot_remove(c, C.uint32_t(slot), C.uint32_t(flags), cWords(words),
			C.uint64_t(len(words)))
	})
	return err
}

func cWords(words []uint64) *C.uint64_t {
	if len(words) == 0 {
		return nil
	}
	return (*C.uint64_t)(&words[0])
}

// ClearSlot protects again what TakeNoClear left writable in a range of a slot. Contents may be
// read after it.
func (l *Log) ClearSlot(slot uint32, offsetBytes, bytes uint64) error {
	_, err := l.call("clear slot", func(c *C.struct_dl_log) C.int {
		return C.dl_slot_clear(c, C.uint32_t(slot), C.uint64_t(offsetBytes), C.uint64_t(bytes))
	})
	return err
}

// WatchSlot finds what this process writes through alias, its second mapping of the slot's memory
// and as long as that, marked or not. It stays mapped until the watch ends, by nil or with the slot.
func (l *Log) WatchSlot(slot uint32, alias []byte, flags WatchFlags) error {
	var at unsafe.Pointer
	if len(alias) > 0 {
		at = unsafe.Pointer(&alias[0])
	}
	_, err := l.call("watch slot", func(c *C.struct_dl_log) C.int {
		return C.dl_slot_watch(c, C.uint32_t(slot), at, C.uint32_t(flags))
	})
	return err
}

// MarkGPA marks guest memory that the VMM or a device wrote or discarded. Write, then mark, then
// notify the guest. ENOENT: part of it is in no slot; the rest is marked.
func (l *Log) MarkGPA(asID uint32, gpa, bytes uint64) error {
	_, err := l.call("mark", func(c *C.struct_dl_log) C.int {
		return C.dl_mark_gpa(c, C.uint32_t(asID), C.uint64_t(gpa), C.uint64_t(bytes))
	})
	return err
}

// MarkSlot marks a range of one slot.
func (l *Log) MarkSlot(slot uint32, offsetBytes, bytes uint64) error {
	_, err := l.call("mark", func(c *C.struct_dl_log) C.int {
		return C.dl_mark_slot(c, C.uint32_t(slot), C.uint64_t(offsetBytes), C.uint64_t(bytes))
	})
	return err
}

// MarkMemory marks host memory, part of a slot's, in every slot that maps it.
func (l *Log) MarkMemory(memory []byte) error {
	_, err := l.call("mark", func(c *C.struct_dl_log) C.int {
		if len(memory) == 0 {
			return 0
		}
		return C.dl_mark_hva(c, unsafe.Pointer(&memory[0]), C.uint64_t(len(memory)))
	})
	return err
}

// MarkIovecs marks bytes of a scattered buffer: bytes is what readv(2) returned, offsetBytes what
// earlier calls read into the same vectors.
func (l *Log) MarkIovecs(iov []syscall.Iovec, offsetBytes, bytes uint64) error {
	_, err := l.call("mark", func(c *C.struct_dl_log) C.int {
		if len(iov) == 0 {
			var none C.struct_iovec
			return C.dl_mark_iov(c, &none, 0, C.uint64_t(offsetBytes), C.uint64_t(bytes))
		}
		first := (*C.struct_iovec)(unsafe.Pointer(&iov[0]))
		return C.dl_mark_iov(c, first, C.uint32_t(len(iov)), C.uint64_t(offsetBytes),
			C.uint64_t(bytes))
	})
	return err
}

// Bitmap describes a foreign dirty log: vhost's, vhost-user's, VFIO's, iommufd's, libvfio-user's.
type Bitmap struct {
	Flags     BitmapFlags
	AsID      uint32
	GPA       uint64 // of bit 0, a multiple of PageBytes
	Bytes     uint64 // of memory that the bitmap covers
	PageBytes uint64 // per bit
}

// MarkBitmap marks the pages that a foreign log names, and returns how many bytes of host pages
// they are, also with ENOENT. words may be memory that is shared with a live writer.
func (l *Log) MarkBitmap(bitmap Bitmap, words []uint64) (uint64, error) {
	var marked C.uint64_t
	c := C.struct_dl_bitmap{
		size:       C.sizeof_struct_dl_bitmap,
		flags:      C.uint32_t(bitmap.Flags),
		as_id:      C.uint32_t(bitmap.AsID),
		gpa:        C.uint64_t(bitmap.GPA),
		bytes:      C.uint64_t(bitmap.Bytes),
		page_bytes: C.uint64_t(bitmap.PageBytes),
	}
	_, err := l.call("mark", func(log *C.struct_dl_log) C.int {
		return C.dl_mark_bitmap(log, &c, cWords(words), C.uint64_t(len(words)), &marked)
	})
	return uint64(marked), err
}

// Forever is what Reap returns where there is no next time.
const Forever time.Duration = -1

// Reap empties the rings if one is about to fill at its pace. It returns when to call it again, for
// a caller that does not Wait; Forever: not before a cursor exists, or never (bitmap mode). That is
// set after an error, too, and nothing is lost.
func (l *Log) Reap(flags ReapFlags) (time.Duration, error) {
	again := C.uint64_t(C.UINT64_MAX)
	_, err := l.call("reap", func(c *C.struct_dl_log) C.int {
		return C.dl_log_reap(c, C.uint32_t(flags), &again)
	})
	if again == C.UINT64_MAX {
		return Forever, err
	}
	return time.Duration(again), err
}
