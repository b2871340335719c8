/* SPDX-License-Identifier: MIT */
#include "options.h"
#include "../clock.h"
#include "report.h"

#include <dirtylog/dirtylog.h>

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
	"Usage: snapshot run DIRECTORY [OPTION]...\n"
	"       snapshot restore|verify|list DIRECTORY [OPTION]...\n"
	"       snapshot merge DIRECTORY --first N --last N\n"
	"Take points of a KVM guest while it runs, with libdirtylog: a base and then\n"
	"increments, a file each. Restore any of them into a new guest that runs on.\n"
	"\n"
	"  run      run a guest, take points, and prove that none of them lacks a write\n"
	"  restore  make a guest of a point; it checks its memory and runs on\n"
	"  verify   check every byte of every point\n"
	"  merge    make one point of the points from --first to --last\n"
	"  list     list the points\n"
	"\n"
	"Points:\n"
	"  --count N             end after N points (default 5) that are not lost, or ten\n"
	"                        in a row that are; 0: at a signal\n"
	"  --interval MS         from one point to the next (default 500)\n"
	"  --continue            go on from the last point in DIRECTORY, with its guest\n"
	"  --full-every N        every Nth point is a base (default: only the first)\n"
	"  --passes N            write N passes beside the guest before it is paused\n"
	"                        (default 1); 0: pause it for all of a point\n"
	"  --pause copy|write    in the pause copy what is left (default), or write it\n"
	"  --buffer SIZE         what can be copied (default 64M); the rest is written\n"
	"  --coalesce SIZE       write clean pages too that lie between changed ones, up\n"
	"                        to SIZE in a row (default 0)\n"
	"  --writer WHERE        process (default): write files in one of their own;\n"
	"                        self: in this one\n"
	"  --prove WHAT          last (default): compare memory with the last point;\n"
	"                        all: with every point, by a sum, which makes each pause\n"
	"                        longer; none\n"
	"  --beside              a migration and a display read the log, too\n"
	"\n"
	"Guest:\n"
	"  --vcpus N             number of vCPUs, 1 to 8 (default 2)\n"
	"  --memory SIZE         memory in four memslots, at least 16M (default 256M)\n"
	"  --guest user|kernel   run guest code in user mode (default) or kernel mode\n"
	"  --working-set SIZE    memory the guest writes (default: a quarter of --memory)\n"
	"  --pattern PATTERN     sequential, random (default) or hot\n"
	"  --dirty-rate SIZE     memory dirtied per second, at most; 0: no limit\n"
	"                        (default 64M)\n"
	"  --fill                let no page of memory be zero\n"
	"  --slot-moves          move, remove and re-create a device's memslot meanwhile\n"
	"  --mode MODE           auto (default), ring or bitmap\n"
	"  --ring-entries N      entries per vCPU ring (default: the library's choice)\n"
	"  --backend BACKEND     kvm, model (of the kernel), or auto (default)\n"
	"\n"
	"Restore and merge:\n"
	"  --point N             which point (default: the last that can be restored)\n"
	"  --first N             the first point to merge\n"
	"  --last N              the last one, which stays\n"
	"\n"
	"Other:\n"
	"  --json                print one JSON object instead of tables\n"
	"  --no-log              take no points and log nothing: what the guest achieves\n"
	"  --log-only            take no points, but log\n"
	"  --fault KIND@STEP     the STEPth system call that writes files goes wrong:\n"
	"                        kill, enospc, eio or short\n"
	"  --sabotage KIND       misuse library or files, to show that the proof fails:\n"
	"                          mark          do not mark the device's writes\n"
	"                          discard       do not mark what a balloon discards\n"
	"                          ack           commit some pages, do not write them\n"
	"                          drop          drop one page of the pause\n"
	"                          read-early    copy contents before the pause\n"
	"                          commit-early  commit before the file is complete\n"
	"                          in-place      write files under their final names\n"
	"  --help                print this help\n"
	"\n"
	"SIZE takes a suffix K, M, G or T (powers of 1024).\n"
	"\n"
	"Exit status:\n"
	"  0  done, and what was proved holds\n"
	"  1  corruption: a point is damaged, or is not what memory was\n"
	"  2  usage error\n"
	"  3  it failed: the last point is not complete; those before it are\n"
	"  4  as 0, but some of the output could not be written\n";

struct keyword {
	const char *name;
	uint32_t value;
};

static const struct keyword commands[] = {
	{ "run", COMMAND_RUN }, /* the only one that takes points */
	{ "restore", COMMAND_RESTORE },
	{ "verify", COMMAND_VERIFY },
	{ "merge", COMMAND_MERGE },
	{ "list", COMMAND_LIST },
	{ NULL, 0 },
};
static const struct keyword modes[] = { { "auto", DL_MODE_AUTO },
					{ "ring", DL_MODE_RING },
					{ "bitmap", DL_MODE_BITMAP },
					{ NULL, 0 } };
static const struct keyword backends[] = {
	{ "auto", BACKEND_AUTO }, { "kvm", BACKEND_KVM }, { "model", BACKEND_MODEL }, { NULL, 0 }
};
static const struct keyword guests[] = { { "user", true }, { "kernel", false }, { NULL, 0 } };
static const struct keyword patterns[] = { { "sequential", GUEST_PATTERN_SEQUENTIAL },
					   { "random", GUEST_PATTERN_RANDOM },
					   { "hot", GUEST_PATTERN_HOT },
					   { NULL, 0 } };
static const struct keyword pauses[] = { { "copy", true }, { "write", false }, { NULL, 0 } };
static const struct keyword writers[] = { { "process", true }, { "self", false }, { NULL, 0 } };
static const struct keyword proofs[] = {
	{ "last", PROVE_LAST }, { "all", PROVE_ALL }, { "none", PROVE_NONE }, { NULL, 0 }
};
static const struct keyword faults[] = { { "kill", FAULT_KILL },
					 { "enospc", FAULT_ENOSPC },
					 { "eio", FAULT_EIO },
					 { "short", FAULT_SHORT },
					 { NULL, 0 } };
static const struct keyword sabotages[] = { { "none", SABOTAGE_NONE },
					    { "mark", SABOTAGE_MARK },
					    { "discard", SABOTAGE_DISCARD },
					    { "ack", SABOTAGE_ACK },
					    { "drop", SABOTAGE_DROP },
					    { "read-early", SABOTAGE_READ_EARLY },
					    { "commit-early", SABOTAGE_COMMIT_EARLY },
					    { "in-place", SABOTAGE_IN_PLACE },
					    { NULL, 0 } };

static const char *keyword_name(const struct keyword *keywords, uint32_t value)
{
	while (keywords->name && keywords->value != value)
		keywords++;
	return keywords->name ? keywords->name : "?";
}

const char *options_mode_name(uint32_t mode)
{
	return keyword_name(modes, mode);
}

const char *options_sabotage_name(enum sabotage sabotage)
{
	return keyword_name(sabotages, sabotage);
}

/* Prints an error of the command line. Returns the status. */
static int usage_error(const struct options *options, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static int usage_error(const struct options *options, const char *format, ...)
{
	struct report report;
	char text[300];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	report_init(&report, options);
	report_error(&report, STATUS_USAGE, "%s", text);
	return report_end(&report, STATUS_USAGE);
}

/* The kind of an option's argument. */
enum kind { FLAG, NUMBER, MILLISECONDS, SIZE, KEYWORD, FAULT };

#define OPTION(option, kind_, field_, ...)                                                     \
	{                                                                                      \
		.name = (option), .kind = (kind_), .offset = offsetof(struct options, field_), \
		.bytes = sizeof(((struct options *)0)->field_), __VA_ARGS__                    \
	}

/* Numbers have a range; flags set their field to true. */
static const struct entry {
	const char *name;
	enum kind kind;
	size_t offset, bytes;
	uint64_t least, most;
	const struct keyword *keywords;
} entries[] = {
	OPTION("count", NUMBER, count, .most = SNAP_MAX_NUMBER),
	OPTION("interval", MILLISECONDS, interval_ns, .most = 86400000),
	OPTION("continue", FLAG, go_on),
	OPTION("full-every", NUMBER, full_every, .most = SNAP_MAX_NUMBER),
	OPTION("passes", NUMBER, passes, .most = 100),
	OPTION("pause", KEYWORD, pause_copy, .keywords = pauses),
	OPTION("buffer", SIZE, buffer_bytes),
	OPTION("coalesce", SIZE, coalesce_bytes),
	OPTION("writer", KEYWORD, own_process, .keywords = writers),
	OPTION("prove", KEYWORD, prove, .keywords = proofs),
	OPTION("beside", FLAG, beside),
	OPTION("vcpus", NUMBER, vcpus, .least = 1, .most = LAYOUT_MAX_VCPUS),
	OPTION("memory", SIZE, memory_bytes),
	OPTION("guest", KEYWORD, guest_user, .keywords = guests),
	OPTION("working-set", SIZE, working_set_bytes),
	OPTION("pattern", KEYWORD, pattern, .keywords = patterns),
	OPTION("dirty-rate", SIZE, dirty_bytes_per_s),
	OPTION("fill", FLAG, fill),
	OPTION("slot-moves", FLAG, slot_moves),
	OPTION("mode", KEYWORD, mode, .keywords = modes),
	OPTION("ring-entries", NUMBER, ring_entries, .least = 1, .most = UINT32_MAX),
	OPTION("backend", KEYWORD, backend, .keywords = backends),
	OPTION("point", NUMBER, point, .least = 1, .most = SNAP_MAX_NUMBER),
	OPTION("first", NUMBER, first, .least = 1, .most = SNAP_MAX_NUMBER),
	OPTION("last", NUMBER, last, .least = 1, .most = SNAP_MAX_NUMBER),
	OPTION("json", FLAG, json),
	OPTION("no-log", FLAG, no_log),
	OPTION("log-only", FLAG, log_only),
	OPTION("fault", FAULT, fault),
	OPTION("sabotage", KEYWORD, sabotage, .keywords = sabotages),
	{ .name = "help" },
};

enum { ENTRIES = sizeof(entries) / sizeof(entries[0]), HELP = ENTRIES - 1 };

static void store(struct options *options, const struct entry *entry, uint64_t value)
{
	char *field = (char *)options + entry->offset;
	uint32_t narrow = (uint32_t)value;

	if (entry->bytes == sizeof(bool))
		*field = value != 0;
	else if (entry->bytes == sizeof(narrow))
		memcpy(field, &narrow, sizeof(narrow));
	else
		memcpy(field, &value, sizeof(value));
}

static bool parse_decimal(const char *text, char **end, uint64_t *value)
{
	errno = 0;
	*value = strtoull(text, end, 10);
	return isdigit((unsigned char)*text) && !errno;
}

static bool parse_size(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	const char *unit;
	unsigned shift = 0;
	char *end;

	if (!parse_decimal(text, &end, bytes))
		return false;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		shift = unit ? 10 * (unsigned)(unit - units + 1) : 64;
		end++;
	}
	if (*end || shift >= 64 || *bytes > UINT64_MAX >> shift)
		return false;
	*bytes <<= shift;
	return true;
}

static bool find_keyword(const struct keyword *keywords, const char *text, uint64_t *value)
{
	for (; keywords->name; keywords++)
		if (!strcmp(keywords->name, text)) {
			*value = keywords->value;
			return true;
		}
	return false;
}

static bool parse_fault(const char *text, struct fault *fault)
{
	const char *at = strchr(text, '@');
	char name[16], *end;
	uint64_t kind;

	if (!at || (size_t)(at - text) >= sizeof(name))
		return false;
	snprintf(name, sizeof(name), "%.*s", (int)(at - text), text);
	if (!find_keyword(faults, name, &kind) || !parse_decimal(at + 1, &end, &fault->step) ||
	    *end)
		return false;
	fault->kind = (enum fault_kind)kind;
	return true;
}

static void expected(const struct entry *entry, char *text, size_t bytes)
{
	const struct keyword *keyword = entry->keywords;
	size_t used;

	if (entry->kind == SIZE)
		snprintf(text, bytes, "a size such as 4096, 64M or 2G");
	else if (entry->kind == FAULT)
		snprintf(text, bytes, "kill, enospc, eio or short, and @ and a number");
	else if (entry->kind != KEYWORD)
		snprintf(text, bytes, "a number from %" PRIu64 " to %" PRIu64, entry->least,
			 entry->most);
	else
		for (snprintf(text, bytes, "one of"); keyword->name; keyword++) {
			used = strlen(text);
			snprintf(text + used, bytes - used, " %s", keyword->name);
		}
}

/* Returns -1, or the status of a usage error. */
static int parse_option(struct options *options, const struct entry *entry, const char *text)
{
	uint64_t value = 1;
	bool valid = true;
	char words[120], *end;

	if (entry->kind == SIZE)
		valid = parse_size(text, &value);
	else if (entry->kind == KEYWORD)
		valid = find_keyword(entry->keywords, text, &value);
	else if (entry->kind == FAULT)
		valid = parse_fault(text, &options->fault);
	else if (entry->kind != FLAG)
		valid = parse_decimal(text, &end, &value) && !*end && value >= entry->least &&
			value <= entry->most;
	if (!valid) {
		expected(entry, words, sizeof(words));
		return usage_error(options, "--%s %.80s: expected %s", entry->name, text, words);
	}
	if (entry->kind == MILLISECONDS)
		value *= NS_PER_MS;
	if (entry->kind != FAULT)
		store(options, entry, value);
	return -1;
}

/* Also for the errors of options that come before it. */
static bool asks_for_json(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--json"))
			return true;
	return false;
}

static int check(struct options *options, int n, char **words)
{
	uint64_t command;

	if (n != 2)
		return usage_error(options, "expected a command and a directory; try 'snapshot "
					    "--help'");
	if (!find_keyword(commands, words[0], &command))
		return usage_error(options, "unknown command '%.40s'; try 'snapshot --help'",
				   words[0]);
	options->command = (enum command)command;
	options->directory = words[1];
	if (options->command == COMMAND_MERGE && (!options->first || !options->last))
		return usage_error(options, "merge needs --first and --last");
	if (options->command == COMMAND_RUN && options->point && !options->go_on)
		return usage_error(options, "run needs --continue with --point");
	if ((options->no_log || options->log_only) && !options->count)
		return usage_error(options, "--no-log and --log-only need a --count");
	if (!options->working_set_bytes)
		options->working_set_bytes = options->memory_bytes / 4;
	if (options->working_set_bytes > options->memory_bytes)
		return usage_error(options, "the working set is larger than the memory");
	return -1;
}

int options_parse(struct options *options, int argc, char **argv)
{
	struct option long_options[ENTRIES + 1] = { { 0 } };
	int option, index = 0, status;

	for (int i = 0; i < ENTRIES; i++)
		long_options[i] =
			(struct option){ entries[i].name,
					 i == HELP || entries[i].kind == FLAG ? no_argument
									      : required_argument,
					 NULL, 256 + i };
	*options = (struct options){ .vcpus = 2,
				     .memory_bytes = UINT64_C(256) << 20,
				     .dirty_bytes_per_s = UINT64_C(64) << 20,
				     .pattern = GUEST_PATTERN_RANDOM,
				     .guest_user = true,
				     .count = 5,
				     .interval_ns = 500 * NS_PER_MS,
				     .passes = 1,
				     .pause_copy = true,
				     .buffer_bytes = UINT64_C(64) << 20,
				     .own_process = true,
				     .json = asks_for_json(argc, argv) };
	while ((option = getopt_long(argc, argv, ":", long_options, &index)) != -1) {
		if (option == '?' || option == ':')
			return usage_error(options,
					   option == ':' ? "option '%.80s' needs an argument"
							 : "invalid option '%.80s'",
					   argv[optind - 1]);
		if (option == 256 + HELP) {
			fputs(help_text, stdout);
			return STATUS_DONE;
		}
		status = parse_option(options, &entries[option - 256], optarg);
		if (status >= 0)
			return status;
	}
	return check(options, argc - optind, argv + optind);
}
