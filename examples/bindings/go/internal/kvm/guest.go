// SPDX-License-Identifier: MIT

// Package kvm is a VM of one vCPU on /dev/kvm, on x86-64, whose guest writes all the while.
package kvm

import (
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"example.org/dirtylog"
)

// MemoryBytes is the guest's memory.
const MemoryBytes = 8 << 20

// FirstGPA is where what the guest writes begins; it ends with the memory.
const FirstGPA = 16 * 4096

const (
	createVM        = 0xae01
	getVCPUMmapSize = 0xae04
	createVCPU      = 0xae41
	setTSSAddr      = 0xae47
	runVCPU         = 0xae80
	setRegs         = 0x4090ae82
	getSregs        = 0x8138ae83
	setSregs        = 0x4138ae84

	exitIO            = 2
	exitDirtyRingFull = 31

	codeGPA = 4096
)

// In protected mode, without paging: stores a counter to each page from edx on, and rings a
// doorbell at the end, for ever.
var code = []byte{
	0x89, 0x1f, //       1: mov %ebx, (%edi)
	0x43,       //          inc %ebx
	0x01, 0xef, //          add %ebp, %edi
	0x39, 0xf7, //          cmp %esi, %edi
	0x72, 0xf7, //          jb 1b
	0x89, 0xd7, //          mov %edx, %edi
	0xe6, 0x10, //          out %al, $0x10
	0xeb, 0xf1, //          jmp 1b
}

// Guest is a VM whose memory is the slot 0, and its log.
type Guest struct {
	Log    *dirtylog.Log
	VCPU   *dirtylog.VCPU
	Memory []byte
	rounds atomic.Uint64
	stop   atomic.Bool
	run    []byte
	vm     int
	vcpu   int
}

// ioctl repeats a call that a signal interrupts: Go preempts its threads by signals, and
// KVM_CREATE_VM returns EINTR for one.
func ioctl(fd int, request uintptr, argument uintptr) (int, error) {
	for {
		r, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, argument)
		if errno == 0 {
			return int(r), nil
		} else if errno != syscall.EINTR {
			return -1, fmt.Errorf("ioctl %#x: %w", request, errno)
		}
	}
}

func ioctlWith(fd int, request uintptr, argument unsafe.Pointer) error {
	for {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request,
			uintptr(argument))
		if errno == 0 {
			return nil
		} else if errno != syscall.EINTR {
			return fmt.Errorf("ioctl %#x: %w", request, errno)
		}
	}
}

// New makes a guest that does not run yet.
func New(options *dirtylog.Options) (*Guest, error) {
	g := &Guest{vm: -1, vcpu: -1}
	if err := g.setUp(options); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Guest) setUp(options *dirtylog.Options) (err error) {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer kvm.Close()
	if g.vm, err = ioctl(int(kvm.Fd()), createVM, 0); err != nil {
		return err
	}
	prot := syscall.PROT_READ | syscall.PROT_WRITE
	anonymous := syscall.MAP_PRIVATE | syscall.MAP_ANON
	if g.Memory, err = syscall.Mmap(-1, 0, MemoryBytes, prot, anonymous); err != nil {
		return err
	}
	copy(g.Memory[codeGPA:], code)
	if g.Log, err = dirtylog.Open(g.vm, options); err != nil {
		return err
	}
	if err = g.Log.SetSlot(dirtylog.Slot{Memory: g.Memory}); err != nil {
		return err
	}
	if _, err = ioctl(g.vm, setTSSAddr, 0xfffbd000); err != nil {
		return err
	}
	if g.vcpu, err = ioctl(g.vm, createVCPU, 0); err != nil {
		return err
	}
	if g.VCPU, err = g.Log.AddVCPU(g.vcpu, 7); err != nil {
		return err
	}
	size, err := ioctl(int(kvm.Fd()), getVCPUMmapSize, 0)
	if err != nil {
		return err
	}
	if g.run, err = syscall.Mmap(g.vcpu, 0, size, prot, syscall.MAP_SHARED); err != nil {
		return err
	}
	return g.startInProtectedMode()
}

type segment struct {
	base                                       uint64
	limit                                      uint32
	selector                                   uint16
	kind, present, dpl, db, s, l, g, avl, none uint8
	_                                          uint8
}

// Of struct kvm_sregs, what is set here.
type sregs struct {
	segments [8]segment // cs, ds, es, fs, gs, ss, tr, ldt
	tables   [2][16]byte
	cr0      uint64
	_        [80]byte
}

var _ = [1]int{}[unsafe.Sizeof(sregs{})-0x138]

func (g *Guest) startInProtectedMode() error {
	var s sregs
	if err := ioctlWith(g.vcpu, getSregs, unsafe.Pointer(&s)); err != nil {
		return err
	}
	for i := 0; i < 6; i++ {
		s.segments[i] = segment{limit: 0xffffffff, selector: 16, kind: 3, present: 1, db: 1, s: 1, g: 1}
	}
	s.segments[0].kind, s.segments[0].selector = 11, 8
	s.cr0 |= 1
	if err := ioctlWith(g.vcpu, setSregs, unsafe.Pointer(&s)); err != nil {
		return err
	}
	// struct kvm_regs: rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags
	regs := [18]uint64{1: 1, 3: FirstGPA, 4: MemoryBytes, 5: FirstGPA, 7: 4096, 16: codeGPA, 17: 2}
	return ioctlWith(g.vcpu, setRegs, unsafe.Pointer(&regs))
}

// Close releases everything. The guest does not run; cursors are closed before it.
func (g *Guest) Close() {
	if g.VCPU != nil {
		g.VCPU.Close()
	}
	if g.Log != nil {
		g.Log.Close()
	}
	for _, memory := range [][]byte{g.run, g.Memory} {
		if memory != nil {
			syscall.Munmap(memory)
		}
	}
	for _, fd := range []int{g.vcpu, g.vm} {
		if fd >= 0 {
			syscall.Close(fd)
		}
	}
}

// Rounds returns how often the guest has written to all of its pages.
func (g *Guest) Rounds() uint64 {
	return g.rounds.Load()
}

// RunOnce enters the guest once.
func (g *Guest) RunOnce() error {
	// Not RawSyscall: the runtime has to know that this blocks, or it would wait for the guest.
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(g.vcpu), runVCPU, 0)
	if errno == syscall.EINTR {
		return nil // a signal, perhaps the runtime's own SIGURG
	}
	if errno != 0 {
		return fmt.Errorf("KVM_RUN: %w", errno)
	}
	switch reason := *(*uint32)(unsafe.Pointer(&g.run[8])); reason {
	case exitIO:
		g.rounds.Add(1)
	case exitDirtyRingFull:
		return g.VCPU.Drain()
	default:
		return fmt.Errorf("exit reason %d", reason)
	}
	return nil
}

// Start runs the guest on a thread of its own. The function that it returns stops it.
func (g *Guest) Start() (stop func() error) {
	done := make(chan error, 1)
	go func() {
		// KVM wants a vCPU's ioctls on one thread, and is slow where that changes.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for !g.stop.Load() {
			if err := g.RunOnce(); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	return func() error {
		g.stop.Store(true)
		return <-done
	}
}
