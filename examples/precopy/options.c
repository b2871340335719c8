/* SPDX-License-Identifier: MIT */
#include "options.h"
#include "address.h"
#include "../clock.h"
#include "device_process.h"
#include "layout.h"
#include "report.h"

#include <dirtylog/dirtylog.h>

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEAST_BANDWIDTH_BYTES (UINT64_C(64) << 10)

enum { MOST_PASSES = 10000 };

struct keyword {
	const char *name;
	uint32_t value;
};

static const struct keyword modes[] = { { "auto", DL_MODE_AUTO },
					{ "ring", DL_MODE_RING },
					{ "bitmap", DL_MODE_BITMAP },
					{ NULL, 0 } };
static const struct keyword backups[] = { { "auto", DL_BACKUP_AUTO },
					  { "off", DL_BACKUP_OFF },
					  { "required", DL_BACKUP_REQUIRED },
					  { NULL, 0 } };
static const struct keyword backends[] = {
	{ "auto", BACKEND_AUTO }, { "kvm", BACKEND_KVM }, { "model", BACKEND_MODEL }, { NULL, 0 }
};
static const struct keyword guests[] = { { "user", true }, { "kernel", false }, { NULL, 0 } };
static const struct keyword patterns[] = { { "sequential", GUEST_PATTERN_SEQUENTIAL },
					   { "random", GUEST_PATTERN_RANDOM },
					   { "hot", GUEST_PATTERN_HOT },
					   { NULL, 0 } };
static const struct keyword throttles[] = { { "none", THROTTLE_NONE },
					    { "auto-converge", THROTTLE_AUTO_CONVERGE },
					    { "dirty-limit", THROTTLE_DIRTY_LIMIT },
					    { "plan", THROTTLE_PLAN },
					    { NULL, 0 } };
static const struct keyword transports[] = { { "unix", false }, { "tcp", true }, { NULL, 0 } };
static const struct keyword sabotages[] = { { "none", SABOTAGE_NONE },
					    { "final", SABOTAGE_FINAL },
					    { "mark", SABOTAGE_MARK },
					    { "discard", SABOTAGE_DISCARD },
					    { "ack", SABOTAGE_ACK },
					    { "drop", SABOTAGE_DROP },
					    { "read-early", SABOTAGE_READ_EARLY },
					    { "log", SABOTAGE_LOG },
					    { NULL, 0 } };

static const struct keyword statuses[] = { { "moved", STATUS_MOVED },
					   { "corrupt", STATUS_CORRUPT },
					   { "failed", STATUS_FAILED },
					   { "unknown", STATUS_UNKNOWN },
					   { NULL, 0 } };

static const char *keyword_name(const struct keyword *keywords, uint32_t value)
{
	while (keywords->name && keywords->value != value)
		keywords++;
	return keywords->name ? keywords->name : "?";
}

const char *options_sabotage_name(enum sabotage sabotage)
{
	return keyword_name(sabotages, sabotage);
}

const char *options_pattern_name(uint32_t pattern)
{
	return keyword_name(patterns, pattern);
}

const char *options_mode_name(uint32_t mode)
{
	return keyword_name(modes, mode);
}

const char *options_throttle_name(enum throttle_option throttle)
{
	return keyword_name(throttles, throttle);
}

const char *options_status_name(int status)
{
	return keyword_name(statuses, (uint32_t)status);
}

/* Called with the option's name and text. Returns false. */
static bool wrong_value(const struct options *options, const char *option, const char *text,
			const char *expected)
{
	report_early_failure(options, STATUS_USAGE, "--%s %.80s: expected %s", option, text,
			     expected);
	return false;
}

static bool parse_keyword(const struct options *options, const char *option, const char *text,
			  const struct keyword *keywords, uint32_t *value)
{
	const struct keyword *keyword;
	char expected[100] = "one of";

	for (keyword = keywords; keyword->name; keyword++)
		if (!strcmp(keyword->name, text)) {
			*value = keyword->value;
			return true;
		}
	for (keyword = keywords; keyword->name; keyword++) {
		size_t used = strlen(expected);

		snprintf(expected + used, sizeof(expected) - used, " %s", keyword->name);
	}
	return wrong_value(options, option, text, expected);
}

static bool parse_number(const struct options *options, const char *option, const char *text,
			 uint64_t least, uint64_t most, uint64_t *value)
{
	char expected[80], *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	if (isdigit((unsigned char)*text) && !*end && !errno && *value >= least && *value <= most)
		return true;
	snprintf(expected, sizeof(expected), "a number from %" PRIu64 " to %" PRIu64, least, most);
	return wrong_value(options, option, text, expected);
}

static bool parse_size(const struct options *options, const char *option, const char *text,
		       uint64_t *bytes)
{
	static const char units[] = "KMGT";
	const char *unit;
	uint64_t number;
	unsigned shift = 0;
	char *end;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		shift = unit ? 10 * (unsigned)(unit - units + 1) : 64;
		end++;
	}
	if (isdigit((unsigned char)*text) && !errno && !*end && shift < 64 &&
	    number <= UINT64_MAX >> shift) {
		*bytes = number << shift;
		return true;
	}
	return wrong_value(options, option, text, "a size such as 4096, 64M or 2G");
}

/* A page takes less than a second, and no side gives the other up for dead. */
static bool parse_bandwidth(struct options *options, const char *option, const char *text)
{
	uint64_t bytes;

	if (!parse_size(options, option, text, &bytes))
		return false;
	if (bytes && bytes < LEAST_BANDWIDTH_BYTES)
		return wrong_value(options, option, text, "at least 64K, or 0 for no limit");
	options->bandwidth_bytes_per_s = bytes;
	return true;
}

enum {
	OPT_VCPUS = 256,
	OPT_READERS,
	OPT_MEMORY,
	OPT_GUEST,
	OPT_WORKING_SET,
	OPT_PATTERN,
	OPT_DIRTY_RATE,
	OPT_MODE,
	OPT_RING_ENTRIES,
	OPT_BACKUP,
	OPT_BACKEND,
	OPT_BANDWIDTH,
	OPT_DOWNTIME_LIMIT,
	OPT_PASSES,
	OPT_THROTTLE,
	OPT_BUDGET,
	OPT_SKIP_REWRITTEN,
	OPT_NO_REAPER,
	OPT_NO_ZERO_PAGES,
	OPT_SLOT_MOVES,
	OPT_DEVICE_PROCESS,
	OPT_CHANNELS,
	OPT_TRANSPORT,
	OPT_LISTEN,
	OPT_CONNECT,
	OPT_JSON,
	OPT_STATUS,
	OPT_REPORT,
	OPT_SABOTAGE,
	OPT_WATCH,
	OPT_HELP,
	OPT_DESTINATION_FD,
	OPT_DEVICE_PROCESS_FD,
};

static const struct option long_options[] = {
	{ "vcpus", required_argument, NULL, OPT_VCPUS },
	{ "readers", required_argument, NULL, OPT_READERS },
	{ "memory", required_argument, NULL, OPT_MEMORY },
	{ "guest", required_argument, NULL, OPT_GUEST },
	{ "working-set", required_argument, NULL, OPT_WORKING_SET },
	{ "pattern", required_argument, NULL, OPT_PATTERN },
	{ "dirty-rate", required_argument, NULL, OPT_DIRTY_RATE },
	{ "mode", required_argument, NULL, OPT_MODE },
	{ "ring-entries", required_argument, NULL, OPT_RING_ENTRIES },
	{ "backup", required_argument, NULL, OPT_BACKUP },
	{ "backend", required_argument, NULL, OPT_BACKEND },
	{ "bandwidth", required_argument, NULL, OPT_BANDWIDTH },
	{ "downtime-limit", required_argument, NULL, OPT_DOWNTIME_LIMIT },
	{ "passes", required_argument, NULL, OPT_PASSES },
	{ "throttle", required_argument, NULL, OPT_THROTTLE },
	{ "budget", required_argument, NULL, OPT_BUDGET },
	{ "skip-rewritten", no_argument, NULL, OPT_SKIP_REWRITTEN },
	{ "no-reaper", no_argument, NULL, OPT_NO_REAPER },
	{ "no-zero-pages", no_argument, NULL, OPT_NO_ZERO_PAGES },
	{ "slot-moves", no_argument, NULL, OPT_SLOT_MOVES },
	{ "device-process", no_argument, NULL, OPT_DEVICE_PROCESS },
	{ "channels", required_argument, NULL, OPT_CHANNELS },
	{ "transport", required_argument, NULL, OPT_TRANSPORT },
	{ "listen", required_argument, NULL, OPT_LISTEN },
	{ "connect", required_argument, NULL, OPT_CONNECT },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "status", required_argument, NULL, OPT_STATUS },
	{ "report", required_argument, NULL, OPT_REPORT },
	{ "sabotage", required_argument, NULL, OPT_SABOTAGE },
	{ "watch", no_argument, NULL, OPT_WATCH },
	{ "help", no_argument, NULL, OPT_HELP },
	/* Internal: a source starts its destination and its device process with them. */
	{ "destination-fd", required_argument, NULL, OPT_DESTINATION_FD },
	{ "device-process-fd", required_argument, NULL, OPT_DEVICE_PROCESS_FD },
	{ NULL, 0, NULL, 0 },
};

static bool parse_guest_option(struct options *options, int option, const char *name,
			       const char *text)
{
	uint64_t number = 0;
	uint32_t value = 0;
	bool valid;

	switch (option) {
	case OPT_VCPUS:
		valid = parse_number(options, name, text, 1, LAYOUT_MAX_VCPUS, &number);
		options->vcpus = (uint32_t)number;
		return valid;
	case OPT_READERS:
		valid = parse_number(options, name, text, 0, LAYOUT_MAX_VCPUS - 1, &number);
		options->readers = (uint32_t)number;
		return valid;
	case OPT_MEMORY:
		options->memory_given = true;
		return parse_size(options, name, text, &options->memory_bytes);
	case OPT_GUEST:
		valid = parse_keyword(options, name, text, guests, &value);
		options->guest_user = value;
		return valid;
	case OPT_WORKING_SET:
		return parse_size(options, name, text, &options->working_set_bytes);
	case OPT_PATTERN:
		return parse_keyword(options, name, text, patterns, &options->pattern);
	default:
		return parse_size(options, name, text, &options->dirty_bytes_per_s);
	}
}

static bool parse_log_option(struct options *options, int option, const char *name,
			     const char *text)
{
	uint64_t number = 0;
	uint32_t value = 0;
	bool valid;

	switch (option) {
	case OPT_MODE:
		return parse_keyword(options, name, text, modes, &options->mode);
	case OPT_RING_ENTRIES:
		/* The library checks the value against the kernel's limits. */
		valid = parse_number(options, name, text, 1, UINT32_MAX, &number);
		options->ring_entries = (uint32_t)number;
		return valid;
	case OPT_BACKUP:
		return parse_keyword(options, name, text, backups, &options->backup);
	default:
		valid = parse_keyword(options, name, text, backends, &value);
		options->backend = (enum backend)value;
		return valid;
	}
}

static bool parse_migration_option(struct options *options, int option, const char *name,
				   const char *text)
{
	uint64_t number = 0;
	uint32_t value = 0;
	bool valid;

	switch (option) {
	case OPT_BANDWIDTH:
		return parse_bandwidth(options, name, text);
	case OPT_DOWNTIME_LIMIT:
		valid = parse_number(options, name, text, 0, 1000000, &number);
		options->downtime_limit_ns = number * NS_PER_MS;
		return valid;
	case OPT_PASSES:
		valid = parse_number(options, name, text, 1, MOST_PASSES, &number);
		options->passes = (uint32_t)number;
		options->passes_given = true;
		return valid;
	case OPT_THROTTLE:
		valid = parse_keyword(options, name, text, throttles, &value);
		options->throttle = (enum throttle_option)value;
		return valid;
	case OPT_BUDGET:
		valid = parse_number(options, name, text, 1, 86400, &number);
		options->budget_ns = number * NS_PER_S;
		return valid;
	case OPT_TRANSPORT:
		valid = parse_keyword(options, name, text, transports, &value);
		options->tcp = value;
		return valid;
	case OPT_SABOTAGE:
		valid = parse_keyword(options, name, text, sabotages, &value);
		options->sabotage = (enum sabotage)value;
		return valid;
	case OPT_DESTINATION_FD:
		valid = parse_number(options, name, text, 0, 1 << 20, &number);
		if (options->destination_fds_given == WIRE_MAX_CHANNELS)
			return false;
		options->destination_fds[options->destination_fds_given++] = (int)number;
		return valid;
	case OPT_DEVICE_PROCESS_FD:
		valid = parse_number(options, name, text, 0, 1 << 20, &number);
		options->device_process_fd = (int)number;
		return valid;
	case OPT_CHANNELS:
		valid = parse_number(options, name, text, 1, WIRE_MAX_CHANNELS, &number);
		options->channels = (uint32_t)number;
		return valid;
	case OPT_SKIP_REWRITTEN:
		options->skip_rewritten = true;
		return true;
	case OPT_NO_REAPER:
		options->reaper = false;
		return true;
	case OPT_NO_ZERO_PAGES:
		options->zero_pages = false;
		return true;
	case OPT_SLOT_MOVES:
		options->slot_moves = true;
		return true;
	case OPT_DEVICE_PROCESS:
		options->device_process = true;
		return true;
	case OPT_WATCH:
		options->watch = true;
		return true;
	case OPT_LISTEN:
		options->listen = text;
		return true;
	case OPT_CONNECT:
		options->connect = text;
		return true;
	case OPT_STATUS:
		options->status = text;
		return true;
	case OPT_REPORT:
		options->report = text;
		return true;
	default:
		options->json = true;
		return true;
	}
}

static bool parse_option(struct options *options, int option, const char *name, const char *text)
{
	if (option <= OPT_DIRTY_RATE)
		return parse_guest_option(options, option, name, text);
	if (option <= OPT_BACKEND)
		return parse_log_option(options, option, name, text);
	return parse_migration_option(options, option, name, text);
}

static int usage_error(const struct options *options, const char *what)
{
	return report_early_failure(options, STATUS_USAGE, "%s; try 'precopy --help'", what);
}

/* Checks options that depend on each other. */
static int check_combination(struct options *options)
{
	struct layout layout;
	char why[320];
	struct reason reason = { why, sizeof(why) };

	if ((options->listen && address_check(options->listen, true, reason)) ||
	    (options->connect && address_check(options->connect, false, reason)))
		return report_early_failure(options, STATUS_USAGE, "%s", why);
	if (!options->passes_given && (options->throttle || options->budget_ns))
		options->passes = MOST_PASSES;
	if (options->readers >= options->vcpus)
		return usage_error(options, "--readers must be less than --vcpus");
	if (!options->working_set_bytes)
		options->working_set_bytes = options->memory_bytes / 4;
	if (options->listen && !options->connect &&
	    (options->status || options->report || options->device_process))
		return usage_error(options,
				   "--status, --report and --device-process are for the source");
	if (!options->reaper && options->throttle)
		return usage_error(options, "--throttle needs the reaper");
	if (options->sabotage == SABOTAGE_LOG && !options->device_process)
		return usage_error(options, "--sabotage log needs --device-process");
	if (options->listen)
		return -1;
	if (layout_make(&layout, options->memory_bytes, options->working_set_bytes, options->vcpus,
			(uint32_t)sysconf(_SC_PAGESIZE), why, sizeof(why)))
		return report_early_failure(options, STATUS_USAGE, "%s", why);
	if (options->device_process && !device_process_fits(&layout))
		return usage_error(
			options, "--working-set leaves no room for the pages of --device-process");
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

/* getopt_long() found an option that does not exist, or that lacks its argument. */
static int bad_option(const struct options *options, int kind, const char *text)
{
	char what[120];

	snprintf(what, sizeof(what),
		 kind == ':' ? "option '%.80s' needs an argument" : "invalid option '%.80s'", text);
	return usage_error(options, what);
}

int options_parse(struct options *options, int argc, char **argv)
{
	int option, index = 0;
	char why[120];

	*options = (struct options){
		.vcpus = 4,
		.memory_bytes = UINT64_C(256) << 20,
		.pattern = GUEST_PATTERN_RANDOM,
		.guest_user = true,
		.bandwidth_bytes_per_s = UINT64_C(200) << 20,
		.downtime_limit_ns = 100 * NS_PER_MS,
		.passes = 8,
		.reaper = true,
		.zero_pages = true,
		.channels = 1,
		.device_process_fd = -1,
		.json = asks_for_json(argc, argv),
		.argc = argc,
		.argv = argv,
	};
	while ((option = getopt_long(argc, argv, ":", long_options, &index)) != -1) {
		if (option == '?' || option == ':')
			return bad_option(options, option, argv[optind - 1]);
		if (option == OPT_HELP) {
			fputs(options_help, stdout);
			return STATUS_MOVED;
		}
		if (!parse_option(options, option, long_options[index].name, optarg))
			return STATUS_USAGE;
	}
	if (optind < argc) {
		snprintf(why, sizeof(why), "unexpected argument '%.80s'", argv[optind]);
		return usage_error(options, why);
	}
	return check_combination(options);
}
