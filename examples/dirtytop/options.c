/* SPDX-License-Identifier: MIT */
#include "options.h"
#include "../output.h"
#include "../status/status.h"

#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
	"Usage: dirtytop [OPTION]... SOCKET\n"
	"Show what a dirty log does while a guest migrates: how fast memory is dirtied\n"
	"and sent, how full the rings are, and which parts of memory move. SOCKET is\n"
	"where the program that uses libdirtylog publishes it, for example\n"
	"'precopy --status SOCKET'.\n"
	"\n"
	"  --interval SECONDS    time between two looks, 0.01 to 60 (default 0.5)\n"
	"  --wait                wait until something publishes on SOCKET\n"
	"  --once                print one frame as plain text, after one interval\n"
	"  --json                print the lines as they come, one JSON object each; with\n"
	"                        --once the first one\n"
	"  --help                print this help\n"
	"\n"
	"Keys: q quits, space freezes the display, + and - change the interval.\n"
	"\n"
	"What a ring holds is known only when it is harvested; until the next harvest\n"
	"its numbers stay, and say how old they are. The bar of a vCPU is what the last\n"
	"harvest found in its ring; the mark and the percentage are the most so far.\n"
	"Colours are left out if NO_COLOR is set. If the output is no terminal, frames\n"
	"follow each other as plain text.\n"
	"\n"
	"Exit status:\n"
	"  0  the publisher has ended, or you have quit\n"
	"  1  nothing publishes on SOCKET, the connection was lost, or the output cannot\n"
	"     be written\n"
	"  2  usage error\n";

int print_error(int status, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	output_wrapped(stderr, fprintf(stderr, "dirtytop: "), 0, text);
	return status;
}

static bool parse_interval(const char *text, uint32_t *ms)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds >= 0.01 && seconds <= 60))
		return false;
	*ms = (uint32_t)lround(seconds * 1000);
	return true;
}

int options_parse(struct options *options, int argc, char **argv)
{
	static const struct option long_options[] = {
		{ "interval", required_argument, NULL, 'i' }, { "wait", no_argument, NULL, 'w' },
		{ "once", no_argument, NULL, 'o' },	      { "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },	      { NULL, 0, NULL, 0 },
	};
	int option;

	*options = (struct options){ .interval_ms = STATUS_DEFAULT_MS };
	while ((option = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
		switch (option) {
		case 'i':
			if (parse_interval(optarg, &options->interval_ms))
				break;
			return print_error(STATUS_USAGE,
					   "--interval %.80s: expected seconds from 0.01 to 60",
					   optarg);
		case 'w':
			options->wait = true;
			break;
		case 'o':
			options->once = true;
			break;
		case 'j':
			options->json = true;
			break;
		case 'h':
			fputs(help_text, stdout);
			return STATUS_OK;
		default:
			return print_error(STATUS_USAGE, "%s %.80s; try 'dirtytop --help'",
					   option == ':' ? "no argument for" : "unknown option",
					   argv[optind - 1]);
		}
	}
	if (optind + 1 != argc)
		return print_error(STATUS_USAGE, "%s; try 'dirtytop --help'",
				   optind == argc ? "no SOCKET is given"
						  : "more than one SOCKET is given");
	options->socket = argv[optind];
	return -1;
}
