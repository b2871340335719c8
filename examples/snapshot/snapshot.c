/* SPDX-License-Identifier: MIT */
#include "../output.h"
#include "commands.h"

#include <stdlib.h>
#include <string.h>

/*
 * snapshot: takes points of a running guest, base and increments, and restores, verifies and merges
 * them. See --help; how a point is taken is in take.c, the format in format.h.
 */

/* The process that writes files: a run starts it, see writer.c. */
static int serve(char **argv)
{
	const struct fault fault = { (enum fault_kind)atoi(argv[3]), strtoull(argv[4], NULL, 10) };

	return writer_serve(atoi(argv[1]), atoi(argv[2]), &fault, atoi(argv[5]));
}

static int command(struct options *options, struct report *report)
{
	switch (options->command) {
	case COMMAND_RUN:
		return command_run(options, report);
	case COMMAND_RESTORE:
		return command_restore(options, report);
	case COMMAND_VERIFY:
		return command_verify(options, report);
	case COMMAND_MERGE:
		return command_merge(options, report);
	default:
		return command_list(options, report);
	}
}

int main(int argc, char **argv)
{
	struct options options;
	struct report report;
	int status, r;

	if (argc == 6 && !strcmp(argv[0], "writer"))
		return serve(argv);
	output_open();
	status = options_parse(&options, argc, argv);
	if (status < 0) {
		report_init(&report, &options);
		status = command(&options, &report);
		status = report_end(&report, status);
	}
	r = output_close();
	if (!r)
		return status;
	report_print_error("cannot write all of the output: %s", strerror(-r));
	return status == STATUS_DONE ? STATUS_UNREPORTED : status;
}
