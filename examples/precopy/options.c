/* SPDX-License-Identifier: MIT */
#include "options.h"
#include "clock.h"
#include "layout.h"

#include <dirtylog/dirtylog.h>

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct word {
	const char *name;
	uint32_t value;
};

static const struct word modes[] = { { "auto", DL_MODE_AUTO },
				     { "ring", DL_MODE_RING },
				     { "bitmap", DL_MODE_BITMAP },
				     { NULL, 0 } };
static const struct word backups[] = { { "auto", DL_BACKUP_AUTO },
				       { "off", DL_BACKUP_OFF },
				       { "required", DL_BACKUP_REQUIRED },
				       { NULL, 0 } };
static const struct word backends[] = {
	{ "auto", BACKEND_AUTO }, { "kvm", BACKEND_KVM }, { "model", BACKEND_MODEL }, { NULL, 0 }
};
static const struct word guests[] = { { "user", true }, { "kernel", false }, { NULL, 0 } };
static const struct word patterns[] = { { "sequential", GUEST_PATTERN_SEQUENTIAL },
					{ "random", GUEST_PATTERN_RANDOM },
					{ "hot", GUEST_PATTERN_HOT },
					{ NULL, 0 } };
static const struct word transports[] = { { "unix", false }, { "tcp", true }, { NULL, 0 } };
static const struct word sabotages[] = { { "none", SABOTAGE_NONE },
					 { "final", SABOTAGE_FINAL },
					 { "mark", SABOTAGE_MARK },
					 { "ack", SABOTAGE_ACK },
					 { "drop", SABOTAGE_DROP },
					 { "read-early", SABOTAGE_READ_EARLY },
					 { NULL, 0 } };

static const char help_text[] =
	"Usage: precopy [OPTION]...\n"
	"Live-migrates a real KVM guest between two processes, by libdirtylog, while it\n"
	"writes memory; and proves at the end that no write was lost. Without --listen\n"
	"or --connect it starts the destination process itself.\n"
	"\n"
	"The guest:\n"
	"  --vcpus N             1 to 8 vCPUs, each a thread (default 4)\n"
	"  --memory SIZE         16M and up, in three memslots (default 256M)\n"
	"  --guest user|kernel   behind page tables in user mode (default), or in kernel\n"
	"                        mode\n"
	"  --working-set SIZE    what it writes to (default: a quarter of the memory)\n"
	"  --pattern PATTERN     sequential, random (default) or hot: 7 of 8 writes go to\n"
	"                        a sixteenth of the working set\n"
	"  --dirty-rate SIZE     of pages touched a second, at most; 0 (default):\n"
	"                        as fast as it can\n"
	"\n"
	"The log:\n"
	"  --mode MODE           auto (default), ring or bitmap\n"
	"  --ring-entries N      of each vCPU's ring, a power of two (default: the\n"
	"                        library's choice)\n"
	"  --backup WHEN         the backup bitmap beside the rings: auto (default), off\n"
	"                        or required\n"
	"  --backend BACKEND     kvm, model (a model of the kernel's side; no guest code\n"
	"                        runs), or auto (default): kvm where /dev/kvm can be\n"
	"                        opened, else the model\n"
	"\n"
	"The migration:\n"
	"  --bandwidth SIZE      a second, at most; 0: no limit (default 200M)\n"
	"  --downtime-limit MS   stop the guest when the rest can be sent in so many\n"
	"                        milliseconds (default 100)\n"
	"  --passes N            stop it at the latest after N passes (default 8)\n"
	"  --no-zero-pages       send pages of zeros like any other\n"
	"  --transport KIND      unix (default) or tcp, to the destination that it starts\n"
	"  --listen ADDRESS      run the destination alone. --memory is then the most it\n"
	"                        accepts (default: half of the host's)\n"
	"  --connect ADDRESS     run the source alone\n"
	"                        ADDRESS is unix:PATH or tcp:HOST:PORT. Nothing is\n"
	"                        encrypted, nobody has to prove who he is.\n"
	"\n"
	"  --json                one JSON object on stdout in place of tables\n"
	"  --sabotage KIND       break the caller's side of the protocol, to see the\n"
	"                        proof fail:\n"
	"                          final       no final harvest\n"
	"                          mark        the device's writes are not marked\n"
	"                          ack         some pages are acknowledged and not sent\n"
	"                          drop        one page is dropped\n"
	"                          read-early  contents are copied before the harvest\n"
	"  --help                this\n"
	"\n"
	"SIZE takes K, M, G, T (powers of 1024).\n"
	"Exit status: 0 moved, no page differs and the guest is healthy; 1 corruption:\n"
	"pages differ or the guest found damage; 2 wrong usage; 3 the migration did not\n"
	"take place.\n";

static const char *name_of(const struct word *words, uint32_t value)
{
	while (words->name && words->value != value)
		words++;
	return words->name ? words->name : "?";
}

const char *options_sabotage_name(enum sabotage sabotage)
{
	return name_of(sabotages, sabotage);
}

const char *options_pattern_name(uint32_t pattern)
{
	return name_of(patterns, pattern);
}

const char *options_mode_name(uint32_t mode)
{
	return name_of(modes, mode);
}

static bool parse_word(const char *option, const char *text, const struct word *words,
		       uint32_t *value)
{
	const struct word *word;

	for (word = words; word->name; word++)
		if (!strcmp(word->name, text)) {
			*value = word->value;
			return true;
		}
	fprintf(stderr, "precopy: --%s %s: it is one of", option, text);
	for (word = words; word->name; word++)
		fprintf(stderr, " %s", word->name);
	fputc('\n', stderr);
	return false;
}

static bool parse_number(const char *option, const char *text, uint64_t least, uint64_t most,
			 uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	if (isdigit((unsigned char)*text) && !*end && !errno && *value >= least && *value <= most)
		return true;
	fprintf(stderr, "precopy: --%s %s: it is a number from %" PRIu64 " to %" PRIu64 "\n",
		option, text, least, most);
	return false;
}

static bool parse_size(const char *option, const char *text, uint64_t *bytes)
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
	fprintf(stderr, "precopy: --%s %s: it is a size such as 4096, 64M or 2G\n", option, text);
	return false;
}

enum {
	OPT_VCPUS = 256,
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
	OPT_NO_ZERO_PAGES,
	OPT_TRANSPORT,
	OPT_LISTEN,
	OPT_CONNECT,
	OPT_JSON,
	OPT_SABOTAGE,
	OPT_HELP,
	OPT_DESTINATION_FD,
};

static const struct option long_options[] = {
	{ "vcpus", required_argument, NULL, OPT_VCPUS },
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
	{ "no-zero-pages", no_argument, NULL, OPT_NO_ZERO_PAGES },
	{ "transport", required_argument, NULL, OPT_TRANSPORT },
	{ "listen", required_argument, NULL, OPT_LISTEN },
	{ "connect", required_argument, NULL, OPT_CONNECT },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "sabotage", required_argument, NULL, OPT_SABOTAGE },
	{ "help", no_argument, NULL, OPT_HELP },
	/* How a source starts its destination; not for the command line. */
	{ "destination-fd", required_argument, NULL, OPT_DESTINATION_FD },
	{ NULL, 0, NULL, 0 },
};

static bool parse_guest_option(struct options *options, int option, const char *name,
			       const char *text)
{
	uint64_t number = 0;
	uint32_t word = 0;
	bool right;

	switch (option) {
	case OPT_VCPUS:
		right = parse_number(name, text, 1, LAYOUT_MAX_VCPUS, &number);
		options->vcpus = (uint32_t)number;
		return right;
	case OPT_MEMORY:
		options->memory_given = true;
		return parse_size(name, text, &options->memory_bytes);
	case OPT_GUEST:
		right = parse_word(name, text, guests, &word);
		options->guest_user = word;
		return right;
	case OPT_WORKING_SET:
		return parse_size(name, text, &options->working_set_bytes);
	case OPT_PATTERN:
		return parse_word(name, text, patterns, &options->pattern);
	default:
		return parse_size(name, text, &options->dirty_bytes_per_s);
	}
}

static bool parse_log_option(struct options *options, int option, const char *name,
			     const char *text)
{
	uint64_t number = 0;
	uint32_t word = 0;
	bool right;

	switch (option) {
	case OPT_MODE:
		return parse_word(name, text, modes, &options->mode);
	case OPT_RING_ENTRIES:
		/* What is not right for the kernel here is told by the library. */
		right = parse_number(name, text, 1, UINT32_MAX, &number);
		options->ring_entries = (uint32_t)number;
		return right;
	case OPT_BACKUP:
		return parse_word(name, text, backups, &options->backup);
	default:
		right = parse_word(name, text, backends, &word);
		options->backend = (enum backend)word;
		return right;
	}
}

static bool parse_migration_option(struct options *options, int option, const char *name,
				   const char *text)
{
	uint64_t number = 0;
	uint32_t word = 0;
	bool right;

	switch (option) {
	case OPT_BANDWIDTH:
		return parse_size(name, text, &options->bandwidth_bytes_per_s);
	case OPT_DOWNTIME_LIMIT:
		right = parse_number(name, text, 0, 1000000, &number);
		options->downtime_limit_ns = number * NS_PER_MS;
		return right;
	case OPT_PASSES:
		right = parse_number(name, text, 1, 10000, &number);
		options->passes = (uint32_t)number;
		return right;
	case OPT_TRANSPORT:
		right = parse_word(name, text, transports, &word);
		options->tcp = word;
		return right;
	case OPT_SABOTAGE:
		right = parse_word(name, text, sabotages, &word);
		options->sabotage = (enum sabotage)word;
		return right;
	case OPT_DESTINATION_FD:
		right = parse_number(name, text, 0, 1 << 20, &number);
		options->destination_fd = (int)number;
		return right;
	case OPT_NO_ZERO_PAGES:
		options->zero_pages = false;
		return true;
	case OPT_LISTEN:
		options->listen = text;
		return true;
	case OPT_CONNECT:
		options->connect = text;
		return true;
	default:
		options->json = true;
		return true;
	}
}

static bool parse_one(struct options *options, int option, const char *name, const char *text)
{
	if (option <= OPT_DIRTY_RATE)
		return parse_guest_option(options, option, name, text);
	if (option <= OPT_BACKEND)
		return parse_log_option(options, option, name, text);
	return parse_migration_option(options, option, name, text);
}

static int misused(const char *what)
{
	fprintf(stderr, "precopy: %s; --help tells more\n", what);
	return STATUS_USAGE;
}

static bool is_address(const char *text)
{
	return !text || !strncmp(text, "unix:", 5) || !strncmp(text, "tcp:", 4);
}

/* What no option can tell alone. */
static int check_together(struct options *options)
{
	struct layout layout;
	char why[200];

	if (options->listen && options->connect)
		return misused("--listen runs the destination, --connect the source: not both");
	if (!is_address(options->listen) || !is_address(options->connect))
		return misused("an address is unix:PATH or tcp:HOST:PORT");
	if (!options->working_set_bytes)
		options->working_set_bytes = options->memory_bytes / 4;
	if (options->listen)
		return -1;
	if (!layout_make(&layout, options->memory_bytes, options->working_set_bytes, options->vcpus,
			 (uint32_t)sysconf(_SC_PAGESIZE), why, sizeof(why)))
		return -1;
	return misused(why);
}

int options_parse(struct options *options, int argc, char **argv)
{
	int option, index = 0;

	*options = (struct options){
		.vcpus = 4,
		.memory_bytes = UINT64_C(256) << 20,
		.pattern = GUEST_PATTERN_RANDOM,
		.guest_user = true,
		.bandwidth_bytes_per_s = UINT64_C(200) << 20,
		.downtime_limit_ns = 100 * NS_PER_MS,
		.passes = 8,
		.zero_pages = true,
		.destination_fd = -1,
	};
	while ((option = getopt_long(argc, argv, "", long_options, &index)) != -1) {
		if (option == '?')
			return misused("the options are wrong");
		if (option == OPT_HELP) {
			fputs(help_text, stdout);
			return STATUS_MOVED;
		}
		if (!parse_one(options, option, long_options[index].name, optarg))
			return STATUS_USAGE;
	}
	if (optind < argc)
		return misused("there are only options, no other arguments");
	return check_together(options);
}
