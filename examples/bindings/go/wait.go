// SPDX-License-Identifier: MIT

package dirtylog

// #include <dirtylog/dirtylog.h>
import "C"

import (
	"os"
	"syscall"
	"unsafe"
)

// Wait blocks until Reap has work: the goroutine, not a thread, since the log's descriptor is in
// the runtime's poller. It returns os.ErrClosed once the log is closed, and in bitmap mode never
// before that.
//
//	for log.Wait() == nil {
//		log.Reap(0) // an error loses nothing, and backs off
//	}
func (l *Log) Wait() error {
	file, err := l.file()
	if err != nil {
		return err
	}
	conn, err := file.SyscallConn()
	if err == nil {
		// Nothing is read: the descriptor is the library's, and Reap sets it anew.
		err = conn.Read(readable)
	}
	l.fd.Lock()
	defer l.fd.Unlock()
	if l.fd.closed {
		return closedError("wait")
	}
	return err
}

// The file in the poller. It has a descriptor of its own, so that its Close cannot close the
// library's, and a Wait that comes late cannot meet another file's.
func (l *Log) file() (*os.File, error) {
	l.fd.Lock()
	defer l.fd.Unlock()
	if l.fd.closed {
		return nil, closedError("wait")
	}
	if l.fd.file != nil {
		return l.fd.file, nil
	}
	fd, err := l.call("fd", func(c *C.struct_dl_log) C.int { return C.dl_log_fd(c) })
	if err != nil {
		return nil, err
	}
	own, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 3)
	if errno != 0 {
		return nil, &Error{Op: "wait", Errno: errno}
	}
	// The library's timers do not block; os.NewFile() looks at that.
	l.fd.file = os.NewFile(own, "dirtylog")
	return l.fd.file, nil
}

func (l *Log) closeFile() {
	l.fd.Lock()
	defer l.fd.Unlock()
	l.fd.closed = true
	if l.fd.file != nil {
		l.fd.file.Close()
		l.fd.file = nil
	}
}

type pollFD struct {
	fd      int32
	events  int16
	revents int16
}

const pollIn = 1

// Whether the descriptor is readable now. Where it cannot be asked, Reap may look.
func readable(fd uintptr) bool {
	var now syscall.Timespec
	one := pollFD{fd: int32(fd), events: pollIn}
	n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&one)), 1,
		uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return errno != 0 || n != 0
}
