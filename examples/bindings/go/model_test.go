// SPDX-License-Identifier: MIT

package dirtylog_test

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.org/dirtylog"
	"example.org/dirtylog/internal/model"
	"example.org/dirtylog/internal/proof"
)

const (
	pageBytes   = proof.PageBytes
	memoryBytes = 4 << 20
	pages       = memoryBytes / pageBytes
)

func newGuest(t *testing.T, has uint32, options dirtylog.Options) *model.Guest {
	t.Helper()
	guest, err := model.New(has, options, memoryBytes)
	must(t, err)
	t.Cleanup(guest.Close)
	return guest
}

func newCursor(t *testing.T, guest *model.Guest, options dirtylog.CursorOptions) *dirtylog.Cursor {
	t.Helper()
	cursor, err := guest.Log.NewCursor(options)
	must(t, err)
	t.Cleanup(func() { cursor.Close() })
	return cursor
}

// A cursor of a guest that was added, with nothing pending.
func newClean(t *testing.T, guest *model.Guest) *dirtylog.Cursor {
	t.Helper()
	return newCursor(t, guest, dirtylog.CursorOptions{Flags: dirtylog.CursorClean, VCPUs: 1})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// An error with this errno value, and these words in it.
func expectError(t *testing.T, err error, errno syscall.Errno, words string) {
	t.Helper()
	var its *dirtylog.Error
	if !errors.Is(err, errno) || !errors.As(err, &its) || !strings.Contains(its.Why, words) {
		t.Errorf("%v is not %v with %q", err, errno, words)
	}
}

// One pass that reads all. Returns the pages' numbers.
func readPages(t *testing.T, cursor *dirtylog.Cursor, flags dirtylog.HarvestFlags,
	end dirtylog.EndFlags) (numbers []uint64) {
	t.Helper()
	_, err := cursor.Harvest(flags)
	must(t, err)
	var extents [4]dirtylog.Extent
	for {
		n, err := cursor.Read(extents[:])
		must(t, err)
		if n == 0 {
			break
		}
		for _, e := range extents[:n] {
			for at := uint64(0); at < e.Bytes; at += pageBytes {
				numbers = append(numbers, (e.GPA+at)/pageBytes)
			}
		}
	}
	must(t, cursor.End(end))
	return numbers
}

func expectPages(t *testing.T, seen []uint64, expected ...uint64) {
	t.Helper()
	same := len(seen) == len(expected)
	for i := 0; same && i < len(seen); i++ {
		same = seen[i] == expected[i]
	}
	if !same {
		t.Errorf("pages %v instead of %v", seen, expected)
	}
}

func migrateOnModel(has uint32, mode dirtylog.Mode, losePage bool) (proof.Outcome, error) {
	guest, err := model.New(has, dirtylog.Options{Mode: mode, RingEntries: 512}, memoryBytes)
	if err != nil {
		return proof.Outcome{}, err
	}
	defer guest.Close()
	var rounds atomic.Uint64
	var stop atomic.Bool
	stopped, reaped := make(chan error, 1), make(chan error, 1)
	go func() {
		var err error
		for count := uint64(1); err == nil && !stop.Load(); count++ {
			page := count * 0x9e3779b97f4a7c15 >> 40 % pages
			err = guest.Store(page*pageBytes+8, count)
			if count%200 == 0 {
				rounds.Add(1)
				runtime.Gosched()
			}
		}
		guest.Leave()
		stopped <- err
	}()
	go func() { reaped <- proof.Reap(guest.Log) }()
	outcome, err := proof.Migrate(&proof.Guest{
		Log: guest.Log, Memory: guest.Memory, Progress: rounds.Load,
		Pause: func() error {
			stop.Store(true)
			return <-stopped
		},
	}, losePage)
	guest.Log.Close()
	if reap := <-reaped; err == nil {
		err = reap
	}
	return outcome, err
}

func TestModelCopyMadeWhileTheGuestWritesIsEqual(t *testing.T) {
	proof.Prove(t, func(losePage bool) (proof.Outcome, error) {
		return migrateOnModel(0, dirtylog.ModeRing, losePage)
	})
}

func TestModelCopyMadeByBitmapsIsEqual(t *testing.T) {
	proof.Prove(t, func(losePage bool) (proof.Outcome, error) {
		return migrateOnModel(model.HasNothing, dirtylog.ModeBitmap, losePage)
	})
}

func TestModelWatchFindsWritesAndAnAuditForgottenMarks(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{})
	alias, err := syscall.Mmap(-1, 0, memoryBytes, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_SHARED|syscall.MAP_ANON)
	must(t, err)
	defer syscall.Munmap(alias)
	config, err := guest.Log.Config()
	must(t, err)
	if config.Has&dirtylog.HasWatch == 0 {
		t.Error("the model has no watches")
	}
	expectError(t, guest.Log.WatchSlot(0, guest.Memory, 0), syscall.EINVAL, "alias")
	must(t, guest.Log.WatchSlot(0, alias, dirtylog.WatchAudit))
	cursor := newClean(t, guest)
	audit := newCursor(t, guest, dirtylog.CursorOptions{Flags: dirtylog.CursorMissed})
	must(t, guest.Wrote(alias, 3*pageBytes))
	must(t, guest.Wrote(alias, 7*pageBytes))
	must(t, guest.Log.MarkSlot(0, 3*pageBytes, 1))
	expectPages(t, readPages(t, cursor, 0, dirtylog.EndCommit), 3, 7)
	expectPages(t, readPages(t, audit, 0, dirtylog.EndCommit), 7)
	must(t, guest.Log.WatchSlot(0, nil, 0))
	stats, err := guest.Log.Stats()
	must(t, err)
	if stats.WatchedBytes != 2*pageBytes || stats.MissedBytes != pageBytes {
		t.Errorf("%d bytes found, %d missed", stats.WatchedBytes, stats.MissedBytes)
	}
}

func TestModelReadAllocatesNothing(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{})
	cursor := newCursor(t, guest, dirtylog.CursorOptions{MaxExtentBytes: pageBytes})
	_, err := cursor.Harvest(dirtylog.HarvestPaused)
	must(t, err)
	extents := make([]dirtylog.Extent, 2)
	read := 0
	allocations := testing.AllocsPerRun(pages/4, func() {
		n, err := cursor.Read(extents)
		if err != nil || cursor.Ack(extents[:n]) != nil {
			t.Error(err)
		}
		read += n
	})
	if allocations != 0 || read < pages/4 {
		t.Errorf("%v allocations a call, %d pages", allocations, read)
	}
	must(t, cursor.End(0))
}

func TestModelWhatIsNotAcknowledgedIsPendingAgain(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{})
	cursor := newClean(t, guest)
	for _, page := range []uint64{3, 4, 5, 9} {
		must(t, guest.Store(page*pageBytes, 1))
	}
	guest.Leave()
	pending, err := cursor.Harvest(dirtylog.HarvestPaused)
	must(t, err)
	extents := make([]dirtylog.Extent, 8)
	n, err := cursor.Read(extents)
	must(t, err)
	stats, err := cursor.Stats()
	must(t, err)
	if pending != 4*pageBytes || n != 2 || stats.UnackedBytes != pending || stats.Passes != 1 {
		t.Fatalf("pending %d, extents %d, stats %+v", pending, n, stats)
	}
	acked := []dirtylog.Extent{extents[0].Part(pageBytes, pageBytes), extents[1]}
	must(t, cursor.Ack(acked))
	expectError(t, cursor.Ack(acked), syscall.EINVAL, "acknowledged already")
	_, err = cursor.Harvest(0)
	expectError(t, err, syscall.EBUSY, "pass is still open")
	must(t, cursor.End(0))
	expectPages(t, readPages(t, cursor, dirtylog.HarvestPaused, dirtylog.EndCommit), 3, 5)
	expectPages(t, readPages(t, cursor, dirtylog.HarvestPaused, 0))
}

func TestModelMarksOfEveryKindAreSeen(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{})
	cursor := newClean(t, guest)
	must(t, guest.Log.MarkGPA(0, 1*pageBytes, 1))
	must(t, guest.Log.MarkSlot(0, 3*pageBytes, pageBytes))
	must(t, guest.Log.MarkMemory(guest.Memory[5*pageBytes+9:][:1]))
	iov := []syscall.Iovec{
		{Base: &guest.Memory[7*pageBytes], Len: 100}, {Base: &guest.Memory[9*pageBytes], Len: 100},
	}
	must(t, guest.Log.MarkIovecs(iov, 50, 60))
	must(t, guest.Log.MarkIovecs(nil, 0, 0))
	must(t, guest.Log.MarkMemory(nil))
	expectError(t, guest.Log.MarkGPA(0, memoryBytes, 1), syscall.ENOENT, "outside of every slot")
	expectPages(t, readPages(t, cursor, 0, 0), 1, 3, 5, 7, 9)
}

func TestModelMarksOfAForeignLogAreSeen(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{})
	cursor := newClean(t, guest)
	log := dirtylog.Bitmap{
		Flags: dirtylog.BitmapTake | dirtylog.BitmapLE, GPA: 2 * pageBytes, Bytes: memoryBytes,
		PageBytes: pageBytes / 2,
	}
	words := make([]uint64, 2*pages/64)
	words[0] = 1 | 1<<9
	marked, err := guest.Log.MarkBitmap(log, words)
	must(t, err)
	if marked != 2*pageBytes || words[0] != 0 {
		t.Errorf("%d bytes, %x", marked, words[0])
	}
	expectPages(t, readPages(t, cursor, 0, 0), 2, 6)
	words[len(words)-1] = 1 << 63
	_, err = guest.Log.MarkBitmap(log, words)
	expectError(t, err, syscall.ENOENT, "outside of every slot")
	_, err = guest.Log.MarkBitmap(log, words[:1])
	expectError(t, err, syscall.EINVAL, "n_words")
}

func TestModelTakeMovesPagesIntoWords(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{})
	cursor := newClean(t, guest)
	must(t, guest.Store(65*pageBytes, 1))
	guest.Leave()
	words := make([]uint64, pages/64)
	flags := dirtylog.TakeHarvest | dirtylog.TakePaused | dirtylog.TakeNoClear
	taken, err := cursor.Take(0, flags, words)
	must(t, err)
	must(t, guest.Log.ClearSlot(0, 0, memoryBytes))
	if taken != pageBytes || words[0] != 0 || words[1] != 2 {
		t.Errorf("%d bytes, %x", taken, words[:2])
	}
	_, err = cursor.Take(0, 0, words[:1])
	expectError(t, err, syscall.EINVAL, "n_words")
	must(t, guest.Store(3*pageBytes, 1))
	guest.Leave()
	words = words[:0:0]
	words = append(words, make([]uint64, pages/64)...)
	must(t, guest.Log.RemoveSlot(0, dirtylog.RemovePaused, words))
	if words[0] != 8 || words[1] != 0 {
		t.Errorf("removed with %x", words[:2])
	}
	expectError(t, guest.Log.RemoveSlot(0, 0, nil), syscall.ENOENT, "no such slot")
}

func TestModelLimitedVCPUIsKickedAndPauses(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{Mode: dirtylog.ModeRing})
	newClean(t, guest)
	if pause, err := guest.VCPU.PauseDue(); pause != 0 || err != nil {
		t.Errorf("%v, %v without a limit", pause, err)
	}
	must(t, guest.VCPU.Limit(pageBytes))
	for page := uint64(0); page < 100; page++ {
		must(t, guest.Store(page*pageBytes, page))
	}
	_, err := guest.Log.Reap(dirtylog.ReapNow)
	must(t, err)
	var cookies [4]uint64
	n, err := guest.Log.Kicks(cookies[:])
	must(t, err)
	pause, err := guest.VCPU.PauseDue()
	must(t, err)
	if n != 1 || pause <= 0 {
		t.Errorf("%d kicks, a pause of %v", n, pause)
	}
	stats, err := guest.Log.Stats()
	must(t, err)
	if stats.LimitedVCPUs != 1 || stats.Paused < pause {
		t.Errorf("%+v", stats)
	}
	must(t, guest.VCPU.Limit(0))
	if pause, err = guest.VCPU.PauseDue(); pause != 0 || err != nil {
		t.Errorf("%v, %v after the limit", pause, err)
	}
}

func TestModelPlanAdvises(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{})
	cursor := newCursor(t, guest, dirtylog.CursorOptions{Flags: dirtylog.CursorSkipRewritten})
	plan, err := cursor.NewPlan(dirtylog.Goal{Downtime: time.Second, Total: time.Minute})
	must(t, err)
	_, err = cursor.NewPlan(dirtylog.Goal{})
	expectError(t, err, syscall.EBUSY, "a plan")
	must(t, plan.Sent(pageBytes, time.Millisecond))
	advice, err := plan.Next(0)
	must(t, err)
	if advice.Verdict != dirtylog.VerdictContinue || advice.PendingBytes != memoryBytes ||
		advice.Again <= 0 || advice.BoundBy != dirtylog.BoundNone {
		t.Errorf("%+v", advice)
	}
	readPages(t, cursor, 0, dirtylog.EndCommit)
	advice, err = plan.Next(0)
	must(t, err)
	if advice.Verdict != dirtylog.VerdictSwitchover || advice.PendingBytes != 0 {
		t.Errorf("%+v", advice)
	}
	must(t, plan.Close())
	if _, err = plan.Next(0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v of a plan that is closed", err)
	}
	plan, err = cursor.NewPlan(dirtylog.Goal{Flags: dirtylog.GoalAdvise})
	must(t, err)
	must(t, plan.Close())
}

func TestModelErrorsNameTheArgument(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{})
	err := guest.Log.SetSlot(dirtylog.Slot{Slot: 1, GPA: 64<<20 + 1, Memory: guest.Memory})
	expectError(t, err, syscall.EINVAL, "gpa, hva, bytes")
	if last := guest.Log.LastError(); !strings.Contains(err.Error(), last) || last == "" {
		t.Errorf("the last error is %q, the error %q", last, err)
	}
	if !strings.Contains(guest.Log.Describe(), guest.Log.LastError()) {
		t.Errorf("described as %q", guest.Log.Describe())
	}
	_, err = model.New(0, dirtylog.Options{RingEntries: 3}, memoryBytes)
	expectError(t, err, syscall.EINVAL, "power of two")
}

func TestModelFailedHarvestLosesNothing(t *testing.T) {
	for _, kernel := range []struct{ has, call uint32 }{
		{0, model.ResetDirtyRings}, {model.HasNothing, model.GetDirtyLog},
	} {
		guest := newGuest(t, kernel.has, dirtylog.Options{})
		cursor := newClean(t, guest)
		must(t, guest.Store(pageBytes, 1))
		guest.Leave()
		injected, err := guest.FailOnce(kernel.call, syscall.EFAULT)
		must(t, err)
		_, err = cursor.Harvest(dirtylog.HarvestPaused)
		expectError(t, err, syscall.EFAULT, "could not be re")
		if injected() != 1 {
			t.Error("no failure was injected")
		}
		if seen := readPages(t, cursor, dirtylog.HarvestPaused, 0); len(seen) == 0 {
			t.Error("the page is lost")
		}
		must(t, cursor.Close())
	}
}

func TestModelClosedHandles(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{})
	cursor, other := newClean(t, guest), newClean(t, guest)
	must(t, other.Close())
	must(t, other.Close())
	if _, err := other.Harvest(0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed cursor harvests: %v", err)
	}
	must(t, guest.Log.Close())
	must(t, guest.Log.Close())
	if err := guest.Log.MarkGPA(0, 0, 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed log marks: %v", err)
	}
	_, err := cursor.Harvest(0)
	expectError(t, err, syscall.ECANCELED, "the log is closed")
	must(t, guest.VCPU.Drain())
	must(t, guest.VCPU.Close())
	if err := guest.VCPU.Drain(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed vCPU drains: %v", err)
	}
	if err := guest.Log.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed log is waited for: %v", err)
	}
}

func TestModelWaitEndsWhenThereIsWork(t *testing.T) {
	guest := newGuest(t, 0, dirtylog.Options{RingEntries: 512})
	if again, err := guest.Log.Reap(0); again != dirtylog.Forever || err != nil {
		t.Errorf("nothing is logged, and Reap says %v, %v", again, err)
	}
	newClean(t, guest)
	// Twice: an expired timer that Reap has set anew wakes again.
	for i := uint64(1); i <= 2; i++ {
		must(t, guest.Store(i*pageBytes, 1))
		must(t, guest.Log.Wait())
		if again, err := guest.Log.Reap(dirtylog.ReapNow); again == dirtylog.Forever || err != nil {
			t.Errorf("Reap says %v, %v", again, err)
		}
		stats, err := guest.Log.Stats()
		must(t, err)
		if stats.Entries != i {
			t.Errorf("%d entries are harvested instead of %d", stats.Entries, i)
		}
	}
}

func threads(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "\nThreads:\t")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(line)
	must(t, err)
	return n
}

// Many logs are waited for by goroutines without a thread each, and Close ends each Wait.
func TestModelWaitNeedsNoThread(t *testing.T) {
	const logs = 64
	before := threads(t)
	var guests []*model.Guest
	var waiters sync.WaitGroup
	failures := make(chan error, logs)
	for i := 0; i < logs; i++ {
		guest := newGuest(t, 0, dirtylog.Options{})
		guests = append(guests, guest)
		waiters.Add(1)
		go func() {
			defer waiters.Done()
			if err := guest.Log.Wait(); !errors.Is(err, os.ErrClosed) {
				failures <- err
			}
		}()
	}
	// Without a cursor nothing is logged, so each one waits, in the poller or in a system call.
	dump := make([]byte, 1<<20)
	for waiting := 0; waiting < logs && len(failures) == 0; runtime.Gosched() {
		all := string(dump[:runtime.Stack(dump, true)])
		waiting = strings.Count(all, " [IO wait") + strings.Count(all, " [syscall")
	}
	if now := threads(t); now >= before+logs/2 {
		t.Errorf("%d threads, %d before", now, before)
	}
	for _, guest := range guests {
		must(t, guest.Log.Close())
	}
	waiters.Wait()
	close(failures)
	for err := range failures {
		t.Errorf("a Wait ended with %v", err)
	}
}
