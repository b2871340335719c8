// SPDX-License-Identifier: MIT

// Package dirtylog tells which guest pages changed since the program last asked. It is libdirtylog
// for Go: dirtylog.h says what each call does, which errors it has, and THE PROMISE with its
// conditions; the comments here say what is different in Go.
//
// A Log has slots and VCPUs, its sources, and Cursors, its consumers. Each has a Close method,
// which has to be called: nothing is left to finalizers. Close waits for calls of that handle that
// are in progress, later ones fail with os.ErrClosed, and a second Close does nothing. Handles may
// be closed in any order; after that of their Log, calls on the others are ECANCELED, but a VCPU
// can still be drained. All methods may be called by any goroutine.
//
// Errors are of type *Error: errors.Is(err, syscall.EBUSY) asks for an errno value.
//
// A pass of a live migration:
//
//	func pass(cursor *dirtylog.Cursor, extents []dirtylog.Extent) (uint64, error) {
//		pending, err := cursor.Harvest(0) // collects, and protects again
//		if err != nil {
//			return 0, err
//		}
//		defer cursor.End(0) // what was not acknowledged is pending again
//		for {
//			n, err := cursor.Read(extents)
//			if n == 0 || err != nil {
//				return pending, err
//			}
//			send(extents[:n])
//			if err := cursor.Ack(extents[:n]); err != nil {
//				return pending, err
//			}
//		}
//	}
package dirtylog

// #cgo pkg-config: dirtylog
// #include <dirtylog/dirtylog.h>
import "C"

import (
	"time"
	"unsafe"
)

// Version is the version of this package, and of the header that it was built with.
const Version = "0.2.0"

// HeaderVersion is the version of that header, as LibraryVersion returns it.
const HeaderVersion = C.DL_VERSION

// LibraryVersion returns the version of the linked library, as major << 16 | minor << 8 | patch.
func LibraryVersion() uint32 {
	return uint32(C.dl_library_version())
}

// Options says how a log is opened. The zero value leaves everything to the library.
type Options struct {
	Mode        Mode
	Backup      Backup
	RingEntries uint32        // per vCPU, a power of two; 0: a good size
	Idle        time.Duration // longest interval between looks at idle rings; 0: 100 ms
	// OS is a struct dl_os of dirtylog/os.h in C's memory, which outlives every handle of the log:
	// a model kernel. Nil: the system.
	OS unsafe.Pointer
}

func (o *Options) c() C.struct_dl_options {
	options := C.struct_dl_options{size: C.sizeof_struct_dl_options}
	if o != nil {
		options.mode = C.uint32_t(o.Mode)
		options.backup = C.uint32_t(o.Backup)
		options.ring_entries = C.uint32_t(o.RingEntries)
		options.idle_ns = C.uint64_t(o.Idle)
		options.os = (*C.struct_dl_os)(o.OS)
	}
	return options
}

// Config says what the kernel offers; what is, or would be, in use.
type Config struct {
	Has            Has
	Mode           Mode
	Backup         bool   // the backup bitmap is in use beside the rings
	RingEntries    uint32 // per vCPU; 0 in bitmap mode
	RingMaxEntries uint32 // the kernel's limit; 0: no rings
	PageBytes      uint32 // host page: the unit of the log
}

func configOf(c *C.struct_dl_config) Config {
	return Config{
		Has:            Has(c.has),
		Mode:           Mode(c.mode),
		Backup:         c.backup != 0,
		RingEntries:    uint32(c.ring_entries),
		RingMaxEntries: uint32(c.ring_max_entries),
		PageBytes:      uint32(c.page_bytes),
	}
}

// Probe reports what Open would choose on fd, /dev/kvm or a VM, and the reason in words. It changes
// nothing.
func Probe(fd int, options *Options) (Config, string, error) {
	var why [whyBytes]C.char
	o := options.c()
	config := C.struct_dl_config{size: C.sizeof_struct_dl_config}
	r := C.dl_probe(C.int(fd), &o, &config, &why[0], whyBytes)
	if r < 0 {
		return Config{}, "", newError("probe", r, C.GoString(&why[0]))
	}
	return configOf(&config), C.GoString(&why[0]), nil
}
