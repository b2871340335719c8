// SPDX-License-Identifier: MIT

package dirtylog

// #include <dirtylog/dirtylog.h>
import "C"

import (
	"fmt"
	"os"
	"syscall"
)

const whyBytes = 320

// Error is a call that failed. Nothing is lost by it; the call can be made again.
type Error struct {
	Op    string        // the call
	Errno syscall.Errno // what Unwrap returns
	// Why is the reason in words, and the argument that was wrong; it may be empty. The log keeps
	// its last failure only: if two calls fail at the same time, both may get the same words.
	Why string
}

// Error has the words, or those of the errno value.
func (e *Error) Error() string {
	if e.Why == "" {
		return fmt.Sprintf("dirtylog: %s: %v", e.Op, e.Errno)
	}
	return fmt.Sprintf("dirtylog: %s: %s", e.Op, e.Why)
}

// Unwrap returns the syscall.Errno.
func (e *Error) Unwrap() error {
	return e.Errno
}

func newError(op string, r C.int, why string) error {
	return &Error{Op: op, Errno: syscall.Errno(-r), Why: why}
}

func closedError(op string) error {
	return fmt.Errorf("dirtylog: %s: %w", op, os.ErrClosed)
}
