/* SPDX-License-Identifier: MIT */
#ifndef DLI_TRACE_H
#define DLI_TRACE_H

/*
 * USDT probes of the provider "dirtylog", for bpftrace, perf and gdb; doc/tracing.md lists them.
 * Each is one nop, and a note in the ELF file. Arguments are values that the code has anyway.
 */

#ifdef DLI_HAVE_SDT
#include <sys/sdt.h>
#else
#define DTRACE_PROBE1(provider, name, a)	  ((void)(a))
#define DTRACE_PROBE2(provider, name, a, b)	  ((void)(a), (void)(b))
#define DTRACE_PROBE3(provider, name, a, b, c)	  ((void)(a), (void)(b), (void)(c))
#define DTRACE_PROBE4(provider, name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#define DTRACE_PROBE5(provider, name, a, b, c, d, e) \
	((void)(a), (void)(b), (void)(c), (void)(d), (void)(e))
#endif

#define DLI_TRACE_HARVEST_BEGIN(log, cursor, flags) \
	DTRACE_PROBE3(dirtylog, harvest_begin, log, cursor, flags)
#define DLI_TRACE_HARVEST_END(log, cursor, result, pending_bytes) \
	DTRACE_PROBE4(dirtylog, harvest_end, log, cursor, result, pending_bytes)
#define DLI_TRACE_RESET(vm_fd, result, ns)    DTRACE_PROBE3(dirtylog, reset, vm_fd, result, ns)
#define DLI_TRACE_RING_FULL(cookie, result)   DTRACE_PROBE2(dirtylog, ring_full, cookie, result)
#define DLI_TRACE_RING_OVERFLOW(cookie, ring) DTRACE_PROBE2(dirtylog, ring_overflow, cookie, ring)
#define DLI_TRACE_REPAIR(log, result, pages)  DTRACE_PROBE3(dirtylog, repair, log, result, pages)
#define DLI_TRACE_SLOT_CHANGE(slot, flags, gpa, bytes, result) \
	DTRACE_PROBE5(dirtylog, slot_change, slot, flags, gpa, bytes, result)

#endif
