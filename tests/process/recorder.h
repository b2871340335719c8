/* SPDX-License-Identifier: MIT */
#ifndef PROCESS_RECORDER_H
#define PROCESS_RECORDER_H

/*
 * Records every system call of the threads of this process, whether signals are blocked or not. A
 * seccomp filter notifies a supervisor thread without a filter, which records the call and lets it
 * continue. Calls are counted by the class that the calling thread has entered.
 */

#include "calls.h"

enum { RECORDER_CALLS = 512, RECORDER_REQUESTS = 16 };

/*
 * Starts to record the calling thread and the threads that it creates. Recording cannot be stopped,
 * so call this at most once per process. Returns 0, or -errno if the kernel does not support it.
 */
int recorder_start(void);

/* Sets the class of the calling thread. Returns the previous class. */
enum call_class recorder_enter(enum call_class class);

/* Records a call that the model kernel has handled. */
void recorder_note(long number, unsigned long request);

/* Clears all counts. */
void recorder_clear(void);

/* The number of times that a class has made a call; for ioctl, with this request. */
unsigned int recorder_count(enum call_class class, long number, unsigned long request);

/* Prints each recorded call that is not in the table. Returns the number of such calls. */
unsigned int recorder_unlisted(void);

/*
 * Prints each call that the table lists as always made but was not recorded. Returns their number.
 */
unsigned int recorder_missing(void);

#endif
