/* SPDX-License-Identifier: MIT */
#include "terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const int deadly[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };

enum { N_DEADLY = sizeof(deadly) / sizeof(deadly[0]) };

static volatile sig_atomic_t caught, resized, stop_wanted;
static sigset_t open_mask; /* inside terminal_wait() */
static struct termios before;
static bool has_before, entered;

static void on_deadly(int number)
{
	caught = number;
}

static void on_resize(int number)
{
	(void)number;
	resized = 1;
}

static void on_stop(int number)
{
	(void)number;
	stop_wanted = 1;
}

static void catch (int number, void (*handler)(int), sigset_t *blocked)
{
	struct sigaction action = { .sa_handler = handler };

	sigaction(number, &action, NULL);
	sigaddset(blocked, number);
	sigdelset(&open_mask, number);
}

void terminal_catch_signals(void)
{
	sigset_t blocked;

	sigemptyset(&blocked);
	pthread_sigmask(SIG_SETMASK, NULL, &open_mask);
	for (int i = 0; i < N_DEADLY; i++)
		catch (deadly[i], on_deadly, &blocked);
	catch (SIGWINCH, on_resize, &blocked);
	catch (SIGCONT, on_resize, &blocked);
	catch (SIGTSTP, on_stop, &blocked);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	/* Restoring the terminal from the background would stop the process. */
	signal(SIGTTOU, SIG_IGN);
}

int terminal_enter(void)
{
	struct termios raw;

	if (!tcgetattr(STDIN_FILENO, &before)) {
		has_before = true;
		raw = before;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		raw.c_cc[VMIN] = 1;
		raw.c_cc[VTIME] = 0;
		if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw))
			return -errno;
	}
	fputs("\033[?1049h\033[?25l", stdout);
	fflush(stdout);
	entered = true;
	return 0;
}

void terminal_leave(void)
{
	if (!entered)
		return;
	entered = false;
	fputs("\033[0m\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	if (has_before)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
}

void terminal_size(int *rows, int *columns)
{
	struct winsize size = { 0 };

	*rows = 24;
	*columns = 80;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_row || !size.ws_col)
		return;
	*rows = size.ws_row;
	*columns = size.ws_col;
}

static void stop(void)
{
	bool was_entered = entered;

	stop_wanted = 0;
	terminal_leave();
	kill(getpid(), SIGSTOP);
	if (was_entered)
		(void)terminal_enter();
	resized = 1;
}

static int read_key(void)
{
	unsigned char key = 0;

	/* The terminal is gone: as if it had hung up. */
	if (read(STDIN_FILENO, &key, 1) <= 0)
		caught = SIGHUP;
	return key;
}

struct terminal_events terminal_wait(int fd, int timeout_ms)
{
	struct timespec limit = { timeout_ms / 1000, timeout_ms % 1000 * 1000000L };
	struct pollfd fds[2] = {
		{ .fd = fd, .events = POLLIN },
		{ .fd = entered && has_before ? STDIN_FILENO : -1, .events = POLLIN },
	};
	struct terminal_events events = { 0 };

	if (ppoll(fds, 2, timeout_ms < 0 ? NULL : &limit, &open_mask) > 0) {
		events.readable = fds[0].revents;
		if (fds[1].revents)
			events.key = read_key();
	}
	if (stop_wanted)
		stop();
	events.resized = resized;
	resized = 0;
	events.signal = caught;
	return events;
}

void terminal_die(int number)
{
	terminal_leave();
	signal(number, SIG_DFL);
	pthread_sigmask(SIG_SETMASK, &open_mask, NULL);
	raise(number);
	/* It was ignored or blocked when the program began. */
	_exit(128 + number);
}
