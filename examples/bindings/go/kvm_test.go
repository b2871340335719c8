// SPDX-License-Identifier: MIT

//go:build amd64

package dirtylog_test

import (
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"example.org/dirtylog"
	"example.org/dirtylog/internal/kvm"
	"example.org/dirtylog/internal/proof"
)

func openKVM(t *testing.T) *os.File {
	t.Helper()
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func migrateOnKVM(mode dirtylog.Mode, losePage bool) (proof.Outcome, error) {
	guest, err := kvm.New(&dirtylog.Options{Mode: mode})
	if err != nil {
		return proof.Outcome{}, err
	}
	defer guest.Close()
	reaped := make(chan error, 1)
	go func() { reaped <- proof.Reap(guest.Log) }()
	stop := guest.Start()
	outcome, err := proof.Migrate(&proof.Guest{
		Log: guest.Log, Memory: guest.Memory, Progress: guest.Rounds, Pause: stop,
	}, losePage)
	guest.Log.Close()
	if reap := <-reaped; err == nil {
		err = reap
	}
	return outcome, err
}

func TestKVMCopyMadeWhileTheGuestWritesIsEqual(t *testing.T) {
	openKVM(t)
	proof.Prove(t, func(losePage bool) (proof.Outcome, error) {
		return migrateOnKVM(dirtylog.ModeAuto, losePage)
	})
}

func TestKVMCopyMadeByBitmapsIsEqual(t *testing.T) {
	openKVM(t)
	proof.Prove(t, func(losePage bool) (proof.Outcome, error) {
		return migrateOnKVM(dirtylog.ModeBitmap, losePage)
	})
}

func TestKVMProbe(t *testing.T) {
	config, why, err := dirtylog.Probe(int(openKVM(t).Fd()), nil)
	must(t, err)
	guest, err := kvm.New(nil)
	must(t, err)
	defer guest.Close()
	is, err := guest.Log.Config()
	must(t, err)
	if is.Mode != config.Mode || is.Has != config.Has || why == "" || is.PageBytes != pageBytes {
		t.Errorf("probed %+v because %q, opened %+v", config, why, is)
	}
	null, err := os.Open("/dev/null")
	must(t, err)
	defer null.Close()
	_, _, err = dirtylog.Probe(int(null.Fd()), nil)
	expectError(t, err, syscall.EBADF, "neither /dev/kvm nor a VM")
}

func TestKVMVCPUDrainsItsFullRing(t *testing.T) {
	config, _, err := dirtylog.Probe(int(openKVM(t).Fd()), nil)
	must(t, err)
	if config.RingMaxEntries == 0 {
		t.Skip("this kernel has no dirty rings")
	}
	guest, err := kvm.New(&dirtylog.Options{Mode: dirtylog.ModeRing, RingEntries: 1024})
	must(t, err)
	defer guest.Close()
	cursor, err := guest.Log.NewCursor(dirtylog.CursorOptions{})
	must(t, err)
	defer cursor.Close()
	words := make([]uint64, kvm.MemoryBytes/pageBytes/64)
	_, err = cursor.Take(0, dirtylog.TakeHarvest|dirtylog.TakePaused, words)
	must(t, err)
	// A round stores to more pages than the ring has entries.
	for guest.Rounds() < 2 {
		must(t, guest.RunOnce())
	}
	stats, err := guest.VCPU.Stats()
	must(t, err)
	// An overflow, which a slow machine can have here, leaves fewer entries than pages.
	if stats.FullExits == 0 || stats.Entries == 0 {
		t.Errorf("the ring was not full: %+v", stats)
	}
	taken, err := cursor.Take(0, dirtylog.TakeHarvest|dirtylog.TakePaused, words)
	must(t, err)
	if taken < kvm.MemoryBytes-kvm.FirstGPA {
		t.Errorf("only %d bytes are dirty", taken)
	}
}

func TestKVMLimitedVCPUPausesAndAPlanAdvises(t *testing.T) {
	config, _, err := dirtylog.Probe(int(openKVM(t).Fd()), nil)
	must(t, err)
	if config.RingMaxEntries == 0 {
		t.Skip("this kernel has no dirty rings")
	}
	guest, err := kvm.New(&dirtylog.Options{Mode: dirtylog.ModeRing})
	must(t, err)
	defer guest.Close()
	cursor, err := guest.Log.NewCursor(dirtylog.CursorOptions{Flags: dirtylog.CursorSkipRewritten})
	must(t, err)
	defer cursor.Close()
	readPages(t, cursor, 0, dirtylog.EndCommit)
	// CPU time is a thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	must(t, guest.VCPU.Limit(pageBytes))
	for guest.Rounds() < 1 {
		must(t, guest.RunOnce())
	}
	_, err = guest.Log.Reap(dirtylog.ReapNow)
	must(t, err)
	var cookies [2]uint64
	n, err := guest.Log.Kicks(cookies[:])
	must(t, err)
	pause, err := guest.VCPU.PauseDue()
	must(t, err)
	if n != 1 || cookies[0] != 7 || pause <= 0 {
		t.Errorf("%d kicks, of %d, and a pause of %v", n, cookies[0], pause)
	}
	plan, err := cursor.NewPlan(dirtylog.Goal{Flags: dirtylog.GoalAdvise})
	must(t, err)
	defer plan.Close()
	must(t, plan.Sent(pageBytes, time.Millisecond))
	advice, err := plan.Next(0)
	must(t, err)
	if advice.Again <= 0 || advice.PendingBytes < kvm.MemoryBytes-kvm.FirstGPA {
		t.Errorf("%+v", advice)
	}
}
