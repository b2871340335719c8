// SPDX-License-Identifier: MIT

package dirtylog

// #include <dirtylog/dirtylog.h>
import "C"

import (
	"sync"
	"time"
)

// Verdict is what a plan says of a migration; treat an unknown one as VerdictContinue.
type Verdict uint32

const (
	VerdictContinue   Verdict = C.DL_VERDICT_CONTINUE   // send what is pending, ask again
	VerdictSwitchover Verdict = C.DL_VERDICT_SWITCHOVER // what is pending fits the downtime
	VerdictThrottled  Verdict = C.DL_VERDICT_THROTTLED  // as continue, with vCPUs limited
	VerdictLate       Verdict = C.DL_VERDICT_LATE       // as throttled, past the budget
	VerdictDiverging  Verdict = C.DL_VERDICT_DIVERGING  // does not converge at the floor
)

// Bound is what keeps a migration from its goal.
type Bound uint32

const (
	BoundNone     Bound = C.DL_BOUND_NONE
	BoundStall    Bound = C.DL_BOUND_STALL    // the backlog does not shrink by itself
	BoundDeadline Bound = C.DL_BOUND_DEADLINE // the budget
	BoundFloor    Bound = C.DL_BOUND_FLOOR    // Goal.LeastRunPPM
	BoundPause    Bound = C.DL_BOUND_PAUSE    // Goal.LongestPause
	BoundIgnored  Bound = C.DL_BOUND_IGNORED  // a vCPU does not ask for its pause
)

// GoalFlags are those of a Goal.
type GoalFlags uint32

// GoalAdvise: set no limits, only advise.
const GoalAdvise GoalFlags = C.DL_GOAL_ADVISE

// Goal is what a plan is to reach. The zero value: 300 ms of downtime, no budget.
type Goal struct {
	Flags        GoalFlags
	Downtime     time.Duration // longest pause of the guest at the switch; 0: 300 ms
	Fixed        time.Duration // of it, what is not memory: device state, the switch
	Total        time.Duration // budget from now to the end of the switch; 0: none
	LongestPause time.Duration // of one vCPU at a time; 0: Downtime
	LeastRunPPM  uint32        // floor of a vCPU's running time; 0: 10,000, 1%
}

// Advice is what a plan says.
type Advice struct {
	Verdict               Verdict
	PendingBytes          uint64 // of the cursor, with what is unacknowledged and unsent
	DirtyBytesPerSecond   uint64 // newly dirtied by the guest, over some two seconds
	WrittenBytesPerSecond uint64 // the same, pages already dirty included
	WireBytesPerSecond    uint64 // of guest memory that the wire takes while it is busy
	Downtime              time.Duration
	Remaining             time.Duration // until the switch; Forever: never
	Again                 time.Duration // ask again after this; limits lapse at ten times it
	LeastPendingBytes     uint64        // the best so far
	RunPPM                uint32        // wanted of every vCPU, where the log limits none
	LimitedVCPUs          uint32        // now held back by this plan
	BoundBy               Bound
}

// Plan controls the vCPUs so that a cursor's memory can be sent within a goal.
type Plan struct {
	log *Log
	mu  sync.RWMutex
	c   *C.struct_dl_plan
}

// NewPlan starts to control the vCPUs for the cursor. EBUSY: the log has a plan.
func (cursor *Cursor) NewPlan(goal Goal) (*Plan, error) {
	g := C.struct_dl_goal{
		size:             C.sizeof_struct_dl_goal,
		flags:            C.uint32_t(goal.Flags),
		downtime_ns:      C.uint64_t(goal.Downtime),
		fixed_ns:         C.uint64_t(goal.Fixed),
		total_ns:         C.uint64_t(goal.Total),
		longest_pause_ns: C.uint64_t(goal.LongestPause),
		least_run_ppm:    C.uint32_t(goal.LeastRunPPM),
	}
	plan := &Plan{log: cursor.log}
	_, err := cursor.call("new plan", func(c *C.struct_dl_cursor) C.int {
		return C.dl_plan_new(c, &g, &plan.c)
	})
	if err != nil {
		return nil, err
	}
	return plan, nil
}

// Close lifts the plan's limits.
func (plan *Plan) Close() error {
	plan.mu.Lock()
	defer plan.mu.Unlock()
	if plan.c != nil {
		C.dl_plan_free(plan.c)
	}
	plan.c = nil
	return nil
}

// Makes a call unless the plan is closed.
func (plan *Plan) call(op string, f func(c *C.struct_dl_plan) C.int) error {
	plan.mu.RLock()
	defer plan.mu.RUnlock()
	if plan.c == nil {
		return closedError(op)
	}
	if r := f(plan.c); r < 0 {
		return plan.log.errorOf(op, r)
	}
	return nil
}

// Sent reports that the wire, busy for that long, took bytes of guest memory. Pages that are sent
// as "zero" do not count.
func (plan *Plan) Sent(bytes uint64, busy time.Duration) error {
	return plan.call("sent", func(c *C.struct_dl_plan) C.int {
		return C.dl_plan_sent(c, C.uint64_t(bytes), C.uint64_t(busy))
	})
}

// Next sets the vCPUs' limits, and advises. unsentBytes: taken by the caller, and not sent yet.
// Kick whom Log.Kicks names afterwards.
func (plan *Plan) Next(unsentBytes uint64) (Advice, error) {
	a := C.struct_dl_advice{size: C.sizeof_struct_dl_advice}
	err := plan.call("next", func(c *C.struct_dl_plan) C.int {
		return C.dl_plan_next(c, C.uint64_t(unsentBytes), &a)
	})
	if err != nil {
		return Advice{}, err
	}
	return Advice{
		Verdict:               Verdict(a.verdict),
		PendingBytes:          uint64(a.pending_bytes),
		DirtyBytesPerSecond:   uint64(a.dirty_bytes_per_s),
		WrittenBytesPerSecond: uint64(a.written_bytes_per_s),
		WireBytesPerSecond:    uint64(a.wire_bytes_per_s),
		Downtime:              durationOf(a.downtime_ns),
		Remaining:             durationOf(a.remaining_ns),
		Again:                 durationOf(a.again_ns),
		LeastPendingBytes:     uint64(a.least_pending_bytes),
		RunPPM:                uint32(a.run_ppm),
		LimitedVCPUs:          uint32(a.limited_vcpus),
		BoundBy:               Bound(a.bound_by),
	}, nil
}

func durationOf(ns C.uint64_t) time.Duration {
	if ns > C.INT64_MAX {
		return Forever
	}
	return time.Duration(ns)
}

// Limit limits how fast the vCPU dirties new memory; 0: no limit. EOPNOTSUPP in bitmap mode.
func (v *VCPU) Limit(bytesPerSecond uint64) error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.c == nil {
		return closedError("limit")
	}
	if r := C.dl_vcpu_limit(v.c, C.uint64_t(bytesPerSecond)); r < 0 {
		return v.log.errorOf("limit", r)
	}
	return nil
}

// PauseDue reports how long this vCPU must stay out of KVM_RUN; 0: enter. It is for the thread that
// runs the vCPU (runtime.LockOSThread): its CPU time is how long the guest ran.
func (v *VCPU) PauseDue() (time.Duration, error) {
	var pause C.uint64_t
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.c == nil {
		return 0, closedError("pause due")
	}
	if r := C.dl_vcpu_pause_due(v.c, &pause); r < 0 {
		return 0, v.log.errorOf("pause due", r)
	}
	return time.Duration(pause), nil
}

// Kicks takes the cookies of vCPUs that must leave KVM_RUN, or a pause, and ask PauseDue: as many
// as there is room for. Call it after Reap, Plan.Next and VCPU.Limit.
func (l *Log) Kicks(cookies []uint64) (int, error) {
	return l.call("kicks", func(c *C.struct_dl_log) C.int {
		return C.dl_log_kicks(c, cWords(cookies), C.uint32_t(len(cookies)))
	})
}
