// SPDX-License-Identifier: MIT
//! A VM of libdirtylog-model, as far as these tests need it.

use super::Memory;
use dirtylog::{sys, Log, Options, Os, Result, Slot, Vcpu};
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;

#[repr(C)]
pub struct dlm_vm {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct dlm_vcpu {
    _opaque: [u8; 0],
}

/// `struct dlm_options`; the zeros behind `has` are defaults.
#[repr(C)]
pub struct dlm_options {
    size: u32,
    flags: u32,
    has: u32,
    rest: [u32; 11],
}

/// `struct dlm_fault`
#[repr(C)]
#[derive(Default)]
pub struct dlm_fault {
    size: u32,
    flags: u32,
    call: u32,
    kind: u32,
    skip: u32,
    times: u32,
    error: i32,
    only: u32,
    entries: u32,
    reserved: u32,
}

#[link(name = "dirtylog-model")]
extern "C" {
    fn dlm_vm_new(
        options: *const dlm_options,
        vm: *mut *mut dlm_vm,
        why: *mut c_char,
        why_bytes: usize,
    ) -> c_int;
    fn dlm_vm_free(vm: *mut dlm_vm);
    fn dlm_vm_fd(vm: *const dlm_vm) -> c_int;
    fn dlm_vm_os(vm: *const dlm_vm) -> *const sys::dl_os;
    fn dlm_vcpu_add(vm: *mut dlm_vm, vcpu: *mut *mut dlm_vcpu) -> c_int;
    fn dlm_vcpu_fd(vcpu: *const dlm_vcpu) -> c_int;
    fn dlm_vcpu_write(
        vcpu: *mut dlm_vcpu,
        as_id: u32,
        gpa: u64,
        data: *const c_void,
        bytes: u64,
        done_bytes: *mut u64,
    ) -> c_int;
    fn dlm_vmm_wrote(
        vm: *mut dlm_vm,
        who: *const c_char,
        address: *const c_void,
        bytes: u64,
    ) -> c_int;
    fn dlm_vcpu_exit(vcpu: *mut dlm_vcpu, exit_reason: u32) -> c_int;
    fn dlm_fault_add(vm: *mut dlm_vm, fault: *const dlm_fault) -> c_int;
    fn dlm_fault_injected(vm: *const dlm_vm, fault: c_int, times: *mut u64) -> c_int;
}

pub const HAS_NOTHING: u32 = 1 << 30;
pub const CALL_GET_DIRTY_LOG: u32 = 5;
pub const CALL_RESET_DIRTY_RINGS: u32 = 7;
const RING_FULL: c_int = 1;

/// The VM, without its log.
pub struct Vm(*mut dlm_vm);

/// A VM of one vCPU whose memory is the slot 0, and its log.
pub struct Guest {
    // In the order in which they are dropped: the VM and its memory last.
    pub vcpu: Vcpu,
    pub log: Log,
    model_vcpu: *mut dlm_vcpu,
    pub vm: Vm,
    pub memory: Memory,
}

// SAFETY: "Any call, any thread" (model.h).
unsafe impl Send for Guest {}
unsafe impl Sync for Guest {}
unsafe impl Send for Vm {}
unsafe impl Sync for Vm {}

impl Vm {
    pub fn new(has: u32) -> Vm {
        let options = dlm_options {
            size: std::mem::size_of::<dlm_options>() as u32,
            flags: 0,
            has,
            rest: [0; 11],
        };
        let mut vm = ptr::null_mut();
        // SAFETY: All pointers are valid during the call.
        let r = unsafe { dlm_vm_new(&options, &mut vm, ptr::null_mut(), 0) };
        assert_eq!(r, 0, "dlm_vm_new");
        Vm(vm)
    }

    /// Makes one call fail. Returns the fault's number.
    pub fn fail_once(&self, call: u32, error: i32) -> c_int {
        let fault = dlm_fault {
            size: std::mem::size_of::<dlm_fault>() as u32,
            call,
            times: 1,
            error,
            ..dlm_fault::default()
        };
        // SAFETY: All pointers are valid during the call.
        let number = unsafe { dlm_fault_add(self.0, &fault) };
        assert!(number >= 0, "dlm_fault_add");
        number
    }

    /// The VMM has written a byte of a mapping.
    pub fn wrote(&self, at: *const u8) {
        // SAFETY: The model only compares the address.
        let r = unsafe { dlm_vmm_wrote(self.0, ptr::null(), at.cast(), 1) };
        assert_eq!(r, 0, "dlm_vmm_wrote");
    }

    pub fn injected(&self, fault: c_int) -> u64 {
        let mut times = 0;
        // SAFETY: All pointers are valid during the call.
        assert_eq!(unsafe { dlm_fault_injected(self.0, fault, &mut times) }, 0);
        times
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // SAFETY: A guest's log and vCPU are dropped before.
        unsafe { dlm_vm_free(self.0) }
    }
}

impl Guest {
    pub fn new(has: u32, options: Options, memory_bytes: usize) -> Result<Guest> {
        let vm = Vm::new(has);
        let memory = Memory::map(memory_bytes, None);
        let mut model_vcpu = ptr::null_mut();
        // SAFETY: The table lives as long as the VM, which is dropped last; the descriptors are the
        // model's; the memory is dropped after the VM, and read only while nobody writes.
        unsafe {
            let os = Some(Os::from_raw(dlm_vm_os(vm.0)));
            let log = Log::open_raw(dlm_vm_fd(vm.0), &Options { os, ..options })?;
            log.set_slot(&Slot::new(0, 0, memory.pointer(), memory_bytes as u64))?;
            assert_eq!(dlm_vcpu_add(vm.0, &mut model_vcpu), 0);
            let vcpu = log.add_vcpu_raw(dlm_vcpu_fd(model_vcpu), 7)?;
            Ok(Guest {
                vcpu,
                log,
                model_vcpu,
                vm,
                memory,
            })
        }
    }

    /// The vCPU stores, and drains its ring when it is full.
    pub fn store(&self, gpa: usize, value: u64) -> Result<()> {
        let bytes = value.to_ne_bytes();
        loop {
            // SAFETY: The vCPU lives as long as the VM.
            let r = unsafe {
                let data = bytes.as_ptr().cast();
                dlm_vcpu_write(self.model_vcpu, 0, gpa as u64, data, 8, ptr::null_mut())
            };
            match r {
                0 => return Ok(()),
                RING_FULL => self.vcpu.drain()?,
                error => panic!("dlm_vcpu_write: {error}"),
            }
        }
    }

    /// The vCPU leaves the guest, as for a paused pass.
    pub fn leave(&self) {
        const KVM_EXIT_INTR: u32 = 10;
        // SAFETY: The vCPU lives as long as the VM.
        assert_eq!(unsafe { dlm_vcpu_exit(self.model_vcpu, KVM_EXIT_INTR) }, 0);
    }
}
