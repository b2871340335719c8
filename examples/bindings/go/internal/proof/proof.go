// SPDX-License-Identifier: MIT

// Package proof copies a guest's memory by passes while the guest writes to it, and compares.
package proof

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"testing"

	"example.org/dirtylog"
)

// PageBytes is the page that the guests of these tests have.
const PageBytes = 4096

const (
	livePasses   = 5
	pausedPasses = 100 // two are enough, unless acknowledgements are lost
	devicePage   = 5
)

// Guest is what a proof needs of a guest whose memory is the slot 0, at 0, and which is writing.
type Guest struct {
	Log      *dirtylog.Log
	Memory   []byte
	Progress func() uint64 // grows while it writes
	Pause    func() error
}

// Outcome is what a migration was.
type Outcome struct {
	Equal       bool
	LostExtents int
	LiveBytes   uint64 // found dirty while the guest ran, after the first full copy
}

type receiver struct {
	guest  *Guest
	memory []byte
	// The address of a page that is not copied, a planted defect; 0: none.
	lose uint64
	lost int
}

func (r *receiver) receive(e *dirtylog.Extent) {
	if r.lose != 0 && e.GPA <= r.lose && r.lose < e.GPA+e.Bytes {
		r.lost++
		return
	}
	copy(r.memory[e.GPA:], e.In(r.guest.Memory))
}

// One pass: copies what changed. Returns what was pending.
func (r *receiver) pass(cursor *dirtylog.Cursor, flags dirtylog.HarvestFlags) (uint64, error) {
	var extents [16]dirtylog.Extent
	pending, err := cursor.Harvest(flags)
	if err != nil {
		return 0, err
	}
	defer cursor.End(0)
	for {
		n, err := cursor.Read(extents[:])
		if n == 0 || err != nil {
			return pending, err
		}
		for i := range extents[:n] {
			r.receive(&extents[i])
		}
		if err := cursor.Ack(extents[:n]); err != nil {
			return pending, err
		}
	}
}

// Reap serves the log until it is closed.
func Reap(log *dirtylog.Log) error {
	for {
		if err := log.Wait(); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
		if _, err := log.Reap(0); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
	}
}

// Migrate copies: passes, then a pause, then a write of a device, then paused passes until nothing
// is pending. With losePage, the extent with the device's write is not copied.
func Migrate(guest *Guest, losePage bool) (outcome Outcome, err error) {
	cursor, err := guest.Log.NewCursor(dirtylog.CursorOptions{})
	if err != nil {
		return outcome, err
	}
	defer cursor.Close()
	r := &receiver{guest: guest, memory: make([]byte, len(guest.Memory))}
	if _, err := r.pass(cursor, 0); err != nil {
		return outcome, err
	}
	for dirtyPasses := 0; dirtyPasses < livePasses; {
		for before := guest.Progress(); guest.Progress() == before; {
			runtime.Gosched()
		}
		pending, err := r.pass(cursor, 0)
		if err != nil {
			return outcome, err
		}
		if pending > 0 {
			dirtyPasses++
		}
		outcome.LiveBytes += pending
	}
	if err := guest.Pause(); err != nil {
		return outcome, err
	}
	n := copy(guest.Memory[devicePage*PageBytes+100:], "written by a device")
	if err := guest.Log.MarkGPA(0, devicePage*PageBytes+100, uint64(n)); err != nil {
		return outcome, err
	}
	if losePage {
		r.lose = devicePage * PageBytes
	}
	for pending, passes := uint64(1), 0; pending > 0; passes++ {
		if passes == pausedPasses {
			return outcome, errors.New("the paused guest never becomes clean")
		}
		if pending, err = r.pass(cursor, dirtylog.HarvestPaused); err != nil {
			return outcome, err
		}
	}
	outcome.Equal = bytes.Equal(r.memory, guest.Memory)
	outcome.LostExtents = r.lost
	return outcome, nil
}

// Prove migrates twice: the first copy has to be equal, and the second, which leaves out an extent,
// must not be.
func Prove(t *testing.T, migrate func(losePage bool) (Outcome, error)) {
	t.Helper()
	good, err := migrate(false)
	if err != nil {
		t.Fatal(err)
	}
	if !good.Equal || good.LostExtents != 0 || good.LiveBytes == 0 {
		t.Errorf("the copy differs from the memory, or nothing was written: %+v", good)
	}
	bad, err := migrate(true)
	if err != nil {
		t.Fatal(err)
	}
	if bad.LostExtents != 1 {
		t.Errorf("the defect was not planted: %+v", bad)
	}
	if bad.Equal {
		t.Error("the proof does not notice an extent that was not copied")
	}
}
