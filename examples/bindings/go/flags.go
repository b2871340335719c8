// SPDX-License-Identifier: MIT

package dirtylog

// #include <dirtylog/dirtylog.h>
import "C"

// Mode is how the kernel is asked.
type Mode uint32

const (
	ModeAuto   Mode = C.DL_MODE_AUTO   // the best that is safe here: ring, else bitmap
	ModeRing   Mode = C.DL_MODE_RING   // rings, or fail
	ModeBitmap Mode = C.DL_MODE_BITMAP // better where logging stays on and passes are rare
)

// Backup is what is done about writers inside the kernel that are no vCPU.
type Backup uint32

const (
	BackupAuto     Backup = C.DL_BACKUP_AUTO     // use the bitmap wherever the kernel has it
	BackupOff      Backup = C.DL_BACKUP_OFF      // no such writer exists
	BackupRequired Backup = C.DL_BACKUP_REQUIRED // one exists: no rings without the bitmap
)

// Has is what the kernel offers.
type Has uint32

const (
	HasRingTSO       Has = C.DL_HAS_RING_TSO       // KVM_CAP_DIRTY_LOG_RING
	HasRingAcqRel    Has = C.DL_HAS_RING_ACQ_REL   // KVM_CAP_DIRTY_LOG_RING_ACQ_REL
	HasBackup        Has = C.DL_HAS_BACKUP         // KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
	HasManualProtect Has = C.DL_HAS_MANUAL_PROTECT // KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
	HasInitiallySet  Has = C.DL_HAS_INITIALLY_SET  // its KVM_DIRTY_LOG_INITIALLY_SET
	HasWatch         Has = C.DL_HAS_WATCH          // userfaultfd WP_ASYNC and PAGEMAP_SCAN
)

// SlotFlags are those of a Slot. SlotPaused, SlotClean and SlotExists act once and are no state.
type SlotFlags uint32

const (
	SlotPaused SlotFlags = C.DL_SLOT_PAUSED // SlotClean holds where a new bitmap begins all set
	SlotClean  SlotFlags = C.DL_SLOT_CLEAN  // every receiver already has its contents
	SlotExists SlotFlags = C.DL_SLOT_EXISTS // the caller created it in KVM, unlogged
	SlotNoLog  SlotFlags = C.DL_SLOT_NO_LOG // KVM cannot log it: guest_memfd, device memory
	SlotWanted SlotFlags = C.DL_SLOT_WANTED // cursors with CursorWanted log it
)

// RemoveFlags are those of Log.RemoveSlot.
type RemoveFlags uint32

// RemovePaused: no vCPU is in KVM_RUN, words get what is dirty. Without it, all of the slot.
const RemovePaused RemoveFlags = C.DL_REMOVE_PAUSED

// WatchFlags are those of Log.WatchSlot.
type WatchFlags uint32

// WatchAudit: count what was never marked, and show it to cursors with CursorMissed.
const WatchAudit WatchFlags = C.DL_WATCH_AUDIT

// HarvestFlags are those of Cursor.Harvest.
type HarvestFlags uint32

const (
	HarvestPaused HarvestFlags = C.DL_HARVEST_PAUSED // no vCPU is in KVM_RUN, I/O is complete
	HarvestAll    HarvestFlags = C.DL_HARVEST_ALL    // first make everything pending
)

// ReapFlags are those of Log.Reap.
type ReapFlags uint32

// ReapNow: every ring, not only those about to fill.
const ReapNow ReapFlags = C.DL_REAP_NOW

// CursorFlags are those of CursorOptions.
type CursorFlags uint32

const (
	CursorClean   CursorFlags = C.DL_CURSOR_CLEAN    // start with nothing pending
	CursorWanted  CursorFlags = C.DL_CURSOR_WANTED   // only SlotWanted slots
	CursorOneSlot CursorFlags = C.DL_CURSOR_ONE_SLOT // only the slot of that number
	CursorMissed  CursorFlags = C.DL_CURSOR_MISSED   // only what a watch found and no mark named
	// CursorSkipRewritten: the first pass leaves what is written again to the next.
	CursorSkipRewritten CursorFlags = C.DL_CURSOR_SKIP_REWRITTEN
)

// EndFlags are those of Cursor.End.
type EndFlags uint32

// EndCommit acknowledges all that was read. Without it, the rest is pending again.
const EndCommit EndFlags = C.DL_END_COMMIT

// TakeFlags are those of Cursor.Take.
type TakeFlags uint32

const (
	TakePaused  TakeFlags = C.DL_TAKE_PAUSED   // with TakeHarvest: as HarvestPaused
	TakeHarvest TakeFlags = C.DL_TAKE_HARVEST  // harvest first
	TakeNoClear TakeFlags = C.DL_TAKE_NO_CLEAR // Log.ClearSlot before reading contents
	TakeLE      TakeFlags = C.DL_TAKE_LE       // little-endian words, as KVM's
)

// BitmapFlags are those of a Bitmap.
type BitmapFlags uint32

const (
	BitmapTake BitmapFlags = C.DL_BITMAP_TAKE // the writer is live: bits are taken
	BitmapLE   BitmapFlags = C.DL_BITMAP_LE   // little-endian words, as vhost-user's
)

// ExtentFlags are those of an Extent.
type ExtentFlags uint32

// ExtentPadded: it contains clean pages, since the cursor joins extents over gaps.
const ExtentPadded ExtentFlags = C.DL_EXTENT_PADDED
