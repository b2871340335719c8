/* SPDX-License-Identifier: MIT */
#ifndef PROCESS_RECORDER_H
#define PROCESS_RECORDER_H

/*
 * Sees every system call of the threads of this process, with signals blocked or not: a seccomp filter
 * asks a thread that has no filter, which notes the call and lets it pass. What is noted is by the
 * class that the calling thread has said it is in.
 */

#include "calls.h"

enum { RECORDER_CALLS = 512, RECORDER_REQUESTS = 16 };

/*
 * The calling thread and those that it starts are seen from now on, for ever. Once a process.
 * Returns 0, or a negative errno value where this kernel cannot do it.
 */
int recorder_start(void);

/* The calling thread's system calls belong to this class from now on. Returns the one before. */
enum call_class recorder_enter(enum call_class class);

/* A call that a model kernel has answered. */
void recorder_note(long number, unsigned long request);

/* Forgets what was noted. */
void recorder_clear(void);

/* How often a class made a call; of an ioctl, with this request. */
unsigned int recorder_count(enum call_class class, long number, unsigned long request);

/*
 * Prints each call that is noted and that the table does not have, with its number. Returns how many.
 */
unsigned int recorder_check(void);

/* Prints each call that the table says is seen, and that is not noted. Returns how many. */
unsigned int recorder_check_seen(void);

#endif
