// SPDX-License-Identifier: MIT

package dirtylog

// #include <dirtylog/dirtylog.h>
import "C"

import "sync"

// VCPU is one vCPU of a VM: a source of its log.
type VCPU struct {
	log *Log
	mu  sync.RWMutex
	c   *C.struct_dl_vcpu
}

// AddVCPU adds a vCPU before its first KVM_RUN. The descriptor is used during this call only.
func (l *Log) AddVCPU(fd int, cookie uint64) (*VCPU, error) {
	v := &VCPU{log: l}
	_, err := l.call("add vcpu", func(c *C.struct_dl_log) C.int {
		return C.dl_vcpu_add(c, C.int(fd), C.uint64_t(cookie), 0, &v.c)
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// Close releases a vCPU that is not running. KVM cannot delete one, so the log goes on harvesting
// what it wrote.
func (v *VCPU) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.c != nil {
		C.dl_vcpu_remove(v.c)
	}
	v.c = nil
	return nil
}

// Drain empties the ring after KVM_RUN ended with KVM_EXIT_DIRTY_RING_FULL, before it is entered
// again. Each time: after an overflow the same exit may come several times. The vCPU must not be in
// KVM_RUN meanwhile.
func (v *VCPU) Drain() error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.c == nil {
		return closedError("drain")
	}
	if r := C.dl_vcpu_drain(v.c, 0); r < 0 {
		return v.log.errorOf("drain", r)
	}
	return nil
}

// Stats reports this vCPU's counters; all 0 in bitmap mode.
func (v *VCPU) Stats() (Stats, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.c == nil {
		return Stats{}, closedError("vcpu stats")
	}
	stats := newStats()
	if r := C.dl_vcpu_stats(v.c, &stats); r < 0 {
		return Stats{}, v.log.errorOf("vcpu stats", r)
	}
	return statsOf(&stats), nil
}
