/* SPDX-License-Identifier: MIT */
#ifndef DIRTYTOP_TERMINAL_H
#define DIRTYTOP_TERMINAL_H

#include <stdbool.h>

/* The terminal on standard output, its keys, and the signals of the program. */

/* Blocks the signals, except inside terminal_wait(). */
void terminal_catch_signals(void);

/* Switches to a screen of its own, without echo. Returns 0 or a negative errno value. */
int terminal_enter(void);

/* Puts everything back as it was. Does nothing otherwise. */
void terminal_leave(void);

void terminal_size(int *rows, int *columns);

struct terminal_events {
	bool readable; /* fd is */
	bool resized;  /* or continued after a stop: draw again */
	int signal;    /* a deadly one, or 0 */
	int key;       /* or 0 */
};

/*
 * Waits for a descriptor (-1: none), a key and a signal, and at most so many milliseconds (-1: no
 * limit). Stops the program on Ctrl-Z.
 */
struct terminal_events terminal_wait(int fd, int timeout_ms);

/* Ends the program as the signal would have. The terminal is left before. */
void terminal_die(int number) __attribute__((noreturn));

#endif
