/* SPDX-License-Identifier: MIT */
#include "../output.h"
#include "draw.h"
#include "feed.h"
#include "options.h"
#include "terminal.h"

#include <errno.h>
#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* dirtytop: a look at a dirty log while it works. See --help; the protocol is in status.h. */

enum { WAIT_MS = 100, PLAIN_COLUMNS = 80, PLAIN_ROWS = 24 };

struct top {
	struct options options;
	struct feed feed;
	struct view view;
	struct canvas canvas;
	bool terminal;
	bool frozen;
	uint32_t frames;
	char why[256]; /* what is wrong with the publisher; empty: nothing */
};

static int fail_to_connect(const char *path, int r)
{
	switch (r) {
	case -ENOENT:
		return print_error(STATUS_LOST,
				   "there is no %.120s; does the program run, and publish there? "
				   "--wait waits for it",
				   path);
	case -ECONNREFUSED:
		return print_error(STATUS_LOST, "nothing publishes on %.120s any more", path);
	case -EACCES:
		return print_error(STATUS_LOST, "%.120s is for its owner only", path);
	default:
		return print_error(STATUS_LOST, "cannot connect to %.120s: %s", path, strerror(-r));
	}
}

/* Errors that go away once the publisher has started. */
static bool may_come(int r)
{
	return r == -ENOENT || r == -ECONNREFUSED || r == -EAGAIN;
}

/* Returns 0, or the exit status after a printed error. */
static int connect_to_publisher(struct top *top)
{
	const struct options *options = &top->options;
	int r;

	while ((r = feed_open(&top->feed, options->socket)) && options->wait && may_come(r)) {
		struct terminal_events events = terminal_wait(-1, WAIT_MS);

		if (events.signal)
			terminal_die(events.signal);
	}
	if (!r)
		r = feed_set_interval(&top->feed, options->interval_ms);
	return r ? fail_to_connect(options->socket, r) : 0;
}

static void make_footer(const struct top *top, char *text, size_t bytes)
{
	snprintf(text, bytes, " q quit   space %s   + - interval %.3g s%s",
		 top->frozen ? "go on" : "freeze", top->options.interval_ms / 1000.0,
		 top->frozen ? "   FROZEN" : "");
}

static int show_live(struct top *top)
{
	char footer[80];
	int rows, columns;

	terminal_size(&rows, &columns);
	if (canvas_reset(&top->canvas, rows, columns))
		return print_error(STATUS_LOST, "no memory for the screen");
	make_footer(top, footer, sizeof(footer));
	draw(&top->canvas, &top->view, footer);
	fputs("\033[H", stdout);
	canvas_print(&top->canvas, stdout, "\033[2K", "\r\n");
	output_flush();
	return -1;
}

/* A frame that stays: plain text, or the last one on a terminal. */
static int show_plain(struct top *top)
{
	int rows = PLAIN_ROWS, columns = PLAIN_COLUMNS;

	if (isatty(STDOUT_FILENO))
		terminal_size(&rows, &columns);
	/* The outcome and the prompt need some rows. */
	if (canvas_reset(&top->canvas, rows - 3, columns))
		return print_error(STATUS_LOST, "no memory for the screen");
	draw(&top->canvas, &top->view, NULL);
	if (top->frames++)
		putchar('\n');
	canvas_print(&top->canvas, stdout, "", "\n");
	putchar('\n');
	output_flush();
	return -1;
}

/* These return -1 to go on, or the exit status. */

static int end_of_publisher(struct top *top)
{
	const struct snapshot *s = &top->view.now;

	if (top->terminal) {
		terminal_leave();
		top->terminal = false;
		(void)show_plain(top);
		printf("\n%s %" PRIu64 " has ended: %s\n", s->program, s->pid, s->state);
	} else {
		(void)show_plain(top);
	}
	return STATUS_OK;
}

static int handle_line(struct top *top, const char *line)
{
	static struct snapshot snapshot;

	if (!snapshot_parse(&snapshot, line, top->why, sizeof(top->why)))
		return STATUS_LOST;
	if (top->options.json) {
		puts(line);
		output_flush();
		if (ferror(stdout))
			return STATUS_LOST;
		return snapshot.ended || top->options.once ? STATUS_OK : -1;
	}
	/* The last line seen on a frozen display is shown at the end. */
	view_update(&top->view, &snapshot);
	if (snapshot.ended)
		return end_of_publisher(top);
	if (top->options.once) {
		if (top->frames || !top->view.n_history)
			return -1;
		(void)show_plain(top);
		return STATUS_OK;
	}
	if (top->terminal)
		return top->frozen ? -1 : show_live(top);
	return show_plain(top);
}

static int handle_feed(struct top *top)
{
	int r = feed_read(&top->feed), status = -1;
	const char *line;

	while (status < 0 && (line = feed_line(&top->feed)))
		status = handle_line(top, line);
	if (status >= 0 || r > 0)
		return status;
	if (!r)
		snprintf(top->why, sizeof(top->why), "the publisher has closed the connection%s",
			 top->view.has_snapshot ? ": it has crashed, or this was too slow" : "");
	else
		snprintf(top->why, sizeof(top->why), "cannot read: %s", strerror(-r));
	return STATUS_LOST;
}

static int handle_key(struct top *top, int key)
{
	uint32_t ms = top->options.interval_ms;

	switch (key) {
	case 'q':
	case 'Q':
		return STATUS_OK;
	case ' ':
		top->frozen = !top->frozen;
		break;
	case '+':
		ms = ms * 2 < STATUS_MAX_MS ? ms * 2 : STATUS_MAX_MS;
		break;
	case '-':
		ms = ms / 2 > STATUS_MIN_MS ? ms / 2 : STATUS_MIN_MS;
		break;
	default:
		return -1;
	}
	if (ms != top->options.interval_ms) {
		top->options.interval_ms = ms;
		/* If it fails, so does the next read. */
		(void)feed_set_interval(&top->feed, ms);
	}
	return show_live(top);
}

static int watch(struct top *top)
{
	int status = top->terminal ? show_live(top) : -1;

	while (status < 0) {
		struct terminal_events events = terminal_wait(top->feed.fd, -1);

		if (events.signal)
			terminal_die(events.signal);
		if (events.key)
			status = handle_key(top, events.key);
		if (status < 0 && events.resized && top->terminal)
			status = show_live(top);
		if (status < 0 && events.readable)
			status = handle_feed(top);
		/* Nobody reads what is printed. */
		if (status < 0 && ferror(stdout))
			status = STATUS_LOST;
	}
	return status;
}

static int run(struct top *top)
{
	const char *no_color = getenv("NO_COLOR");
	int status = connect_to_publisher(top), r;

	if (status)
		return status;
	top->terminal = isatty(STDOUT_FILENO) && !top->options.once && !top->options.json;
	top->canvas.utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	top->canvas.colour = top->terminal && !(no_color && *no_color);
	r = top->terminal ? terminal_enter() : 0;
	status = r ? print_error(STATUS_LOST, "cannot use the terminal: %s", strerror(-r))
		   : watch(top);
	terminal_leave();
	if (*top->why)
		print_error(status, "%.120s: %s", top->options.socket, top->why);
	feed_close(&top->feed);
	canvas_free(&top->canvas);
	return status;
}

int main(int argc, char **argv)
{
	static struct top top;
	int status, r;

	output_open();
	setlocale(LC_CTYPE, "");
	status = options_parse(&top.options, argc, argv);
	if (status < 0) {
		terminal_catch_signals();
		status = run(&top);
	}
	r = output_close();
	if (r && status != STATUS_USAGE)
		status = print_error(STATUS_LOST, "cannot write all of the output: %s",
				     strerror(-r));
	return status;
}
