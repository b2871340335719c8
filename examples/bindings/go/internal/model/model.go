// SPDX-License-Identifier: MIT

// Package model is a VM of libdirtylog-model, as far as the tests need it.
package model

// #cgo pkg-config: dirtylog-model
// #include <dirtylog/model.h>
import "C"

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"unsafe"

	"example.org/dirtylog"
)

// HasNothing is a kernel without any capability of dirty logging.
const HasNothing = C.DLM_HAS_NOTHING

// Calls that can be made to fail.
const (
	GetDirtyLog     = C.DLM_CALL_GET_DIRTY_LOG
	ResetDirtyRings = C.DLM_CALL_RESET_DIRTY_RINGS
)

// Guest is a VM of one vCPU whose memory is the slot 0, and its log.
type Guest struct {
	Log    *dirtylog.Log
	VCPU   *dirtylog.VCPU
	Memory []byte
	vm     *C.struct_dlm_vm
	vcpu   *C.struct_dlm_vcpu
}

func check(r C.int, what string) error {
	if r < 0 {
		return fmt.Errorf("%s: %w", what, syscall.Errno(-r))
	}
	return nil
}

// New makes a guest on a kernel that has these capabilities; 0: an x86 of today.
func New(has uint32, options dirtylog.Options, memoryBytes int) (*Guest, error) {
	var why [300]C.char
	o := C.struct_dlm_options{size: C.sizeof_struct_dlm_options, has: C.uint32_t(has)}
	g := new(Guest)
	if r := C.dlm_vm_new(&o, &g.vm, &why[0], C.size_t(len(why))); r < 0 {
		return nil, fmt.Errorf("dlm_vm_new: %s", C.GoString(&why[0]))
	}
	options.OS = unsafe.Pointer(C.dlm_vm_os(g.vm))
	if err := g.setUp(&options, memoryBytes); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Guest) setUp(options *dirtylog.Options, memoryBytes int) (err error) {
	prot, flags := syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON
	if g.Memory, err = syscall.Mmap(-1, 0, memoryBytes, prot, flags); err != nil {
		return err
	}
	if g.Log, err = dirtylog.Open(int(C.dlm_vm_fd(g.vm)), options); err != nil {
		return err
	}
	if err = g.Log.SetSlot(dirtylog.Slot{Memory: g.Memory}); err != nil {
		return err
	}
	if err = check(C.dlm_vcpu_add(g.vm, &g.vcpu), "dlm_vcpu_add"); err != nil {
		return err
	}
	g.VCPU, err = g.Log.AddVCPU(int(C.dlm_vcpu_fd(g.vcpu)), 7)
	return err
}

// Close releases everything. Cursors are closed before it.
func (g *Guest) Close() {
	if g.VCPU != nil {
		g.VCPU.Close()
	}
	if g.Log != nil {
		g.Log.Close()
	}
	C.dlm_vm_free(g.vm)
	if g.Memory != nil {
		syscall.Munmap(g.Memory)
	}
}

// Store makes the vCPU store a value; it drains its ring when that is full.
func (g *Guest) Store(gpa, value uint64) error {
	var data [8]byte
	binary.LittleEndian.PutUint64(data[:], value)
	for {
		r := C.dlm_vcpu_write(g.vcpu, 0, C.uint64_t(gpa), unsafe.Pointer(&data), 8, nil)
		if r != C.DLM_RING_FULL {
			return check(r, "dlm_vcpu_write")
		}
		if err := g.VCPU.Drain(); err != nil {
			return err
		}
	}
}

// Wrote says that the VMM has written a byte of a mapping.
func (g *Guest) Wrote(mapping []byte, offset uint64) error {
	return check(C.dlm_vmm_wrote(g.vm, nil, unsafe.Pointer(&mapping[offset]), 1), "dlm_vmm_wrote")
}

// Leave makes the vCPU leave the guest, as for a paused pass.
func (g *Guest) Leave() {
	const exitIntr = 10
	C.dlm_vcpu_exit(g.vcpu, exitIntr)
}

// FailOnce makes a call fail. It returns a function that says how often it has.
func (g *Guest) FailOnce(call uint32, errno syscall.Errno) (injected func() uint64, err error) {
	fault := C.struct_dlm_fault{
		size:  C.sizeof_struct_dlm_fault,
		call:  C.uint32_t(call),
		times: 1,
		error: C.int32_t(errno),
	}
	number := C.dlm_fault_add(g.vm, &fault)
	return func() uint64 {
		var times C.uint64_t
		C.dlm_fault_injected(g.vm, number, &times)
		return uint64(times)
	}, check(number, "dlm_fault_add")
}
