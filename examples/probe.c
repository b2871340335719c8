/* SPDX-License-Identifier: MIT */
/*
 * Reports which dirty logging features this kernel offers, and what libdirtylog would choose and
 * why. Only queries the KVM device: creates no VM and changes nothing.
 */
#include "output.h"

#include <dirtylog/dirtylog.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#define RING_ENTRY_BYTES 16

enum { EXIT_OK = 0, EXIT_UNSUPPORTED = 1, EXIT_USAGE = 2 };

struct request {
	const char *device;
	struct dl_options options;
};

struct report {
	struct utsname host;
	const char *device;
	int error;		  /* negative errno: the query failed or was refused */
	bool has_offered;	  /* offered is valid */
	struct dl_config offered; /* with default options */
	struct dl_config chosen;  /* with the options of the command line */
	char why[512];		  /* the reason for the choice or the error */
};

struct name {
	const char *name;
	uint32_t value;
};

static const struct name modes[] = {
	{ "auto", DL_MODE_AUTO },
	{ "ring", DL_MODE_RING },
	{ "bitmap", DL_MODE_BITMAP },
	{ NULL, 0 },
};

static const struct name backups[] = {
	{ "auto", DL_BACKUP_AUTO },
	{ "off", DL_BACKUP_OFF },
	{ "required", DL_BACKUP_REQUIRED },
	{ NULL, 0 },
};

static const struct {
	uint32_t bit;
	const char *key;
	const char *text;
} offers[] = {
	{ DL_HAS_RING_TSO, "ring_tso", "dirty ring (x86, TSO)" },
	{ DL_HAS_RING_ACQ_REL, "ring_acq_rel", "dirty ring (acquire/release)" },
	{ DL_HAS_BACKUP, "backup", "ring with backup bitmap" },
	{ DL_HAS_MANUAL_PROTECT, "manual_protect", "bitmap with manual protect" },
	{ DL_HAS_INITIALLY_SET, "initially_set", "bitmap initially all set" },
};
#define N_OFFERS (sizeof(offers) / sizeof(offers[0]))

static const char usage_text[] =
	" [OPTION]...\n"
	"Report which dirty logging features this kernel offers, and what libdirtylog\n"
	"would choose and why. Creates no VM and changes nothing.\n"
	"\n"
	"  --mode auto|ring|bitmap        request a mode (default: auto)\n"
	"  --backup auto|off|required     request the backup bitmap (default: auto)\n"
	"  --ring-entries N               request a ring size, a power of two\n"
	"  --device PATH                  KVM device to query (default: /dev/kvm)\n"
	"  --json                         print one JSON object instead of the table\n"
	"  --help                         print this help\n"
	"\n"
	"Exit status:\n"
	"  0  the request is supported\n"
	"  1  the device cannot be queried, the request is not supported, or the output\n"
	"     cannot be written\n"
	"  2  usage error\n";

/* Ends the program, with an error if some of the output is lost. */
static void leave(int status)
{
	int r = output_close();

	if (r)
		fprintf(stderr, "%s: cannot write the output: %s\n", program_invocation_short_name,
			strerror(-r));
	exit(r && !status ? EXIT_UNSUPPORTED : status);
}

static bool json; /* also for the errors of options that come before it */

static void usage_error(const char *what, const char *value)
{
	char text[200];

	snprintf(text, sizeof(text), "%s '%.100s'; try '%.50s --help'", what, value,
		 program_invocation_short_name);
	output_wrapped(stderr, fprintf(stderr, "%s: ", program_invocation_short_name), 0, text);
	if (json) {
		printf("{\n  \"error\": %d,\n  \"reason\": ", EINVAL);
		output_json_string(text);
		printf("\n}\n");
	}
	leave(EXIT_USAGE);
}

static uint32_t parse_name(const struct name *names, const char *what, const char *name)
{
	for (; names->name; names++)
		if (!strcmp(names->name, name))
			return names->value;
	usage_error(what, name);
	return 0;
}

static uint32_t parse_entries(const char *text)
{
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || *end || text[0] < '0' || text[0] > '9' || number > UINT32_MAX)
		usage_error("invalid ring size", text);
	return (uint32_t)number;
}

static void parse(int argc, char **argv, struct request *request)
{
	static const struct option options[] = {
		{ "mode", required_argument, NULL, 'm' },
		{ "backup", required_argument, NULL, 'b' },
		{ "ring-entries", required_argument, NULL, 'r' },
		{ "device", required_argument, NULL, 'd' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	for (int i = 1; i < argc; i++)
		json |= !strcmp(argv[i], "--json");
	while ((option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		switch (option) {
		case 'm':
			request->options.mode = parse_name(modes, "unknown mode", optarg);
			break;
		case 'b':
			request->options.backup =
				parse_name(backups, "unknown backup setting", optarg);
			break;
		case 'r':
			request->options.ring_entries = parse_entries(optarg);
			break;
		case 'd':
			request->device = optarg;
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			printf("Usage: %s%s", program_invocation_short_name, usage_text);
			leave(EXIT_OK);
			break;
		case ':':
			usage_error("no argument for", argv[optind - 1]);
			break;
		default:
			usage_error("invalid option", argv[optind - 1]);
		}
	}
	if (optind < argc)
		usage_error("unexpected argument", argv[optind]);
}

/* Says how the user can get access to the device. */
static void explain_access(const char *device, char *text, size_t text_bytes)
{
	const struct group *group = NULL;
	struct stat status;

	if (!stat(device, &status) && (status.st_mode & 0060) == 0060)
		group = getgrgid(status.st_gid);
	if (group && status.st_gid)
		snprintf(text, text_bytes,
			 "no access to %s; join its group '%s' with "
			 "'sudo usermod -aG %s \"$USER\"' and log in again",
			 device, group->gr_name, group->gr_name);
	else
		snprintf(text, text_bytes,
			 "no access to %s; root can grant it with "
			 "'sudo setfacl -m \"u:$USER:rw\" %s'",
			 device, device);
}

static void explain_open_error(const char *device, int error, char *text, size_t text_bytes)
{
	if (error == EACCES || error == EPERM)
		explain_access(device, text, text_bytes);
	else if (error == ENOENT)
		snprintf(text, text_bytes,
			 "no %s: load the kvm module, or enable virtualization in the firmware "
			 "or, inside a virtual machine, nested virtualization",
			 device);
	else
		snprintf(text, text_bytes, "cannot open %s: %s", device, strerror(error));
}

static void probe_device(const struct request *request, struct report *report)
{
	int fd = open(request->device, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		report->error = -errno;
		explain_open_error(request->device, errno, report->why, sizeof(report->why));
		return;
	}
	report->offered.size = sizeof(report->offered);
	report->chosen.size = sizeof(report->chosen);
	report->error = dl_probe(fd, NULL, &report->offered, report->why, sizeof(report->why));
	if (report->error == -EBADF)
		snprintf(report->why, sizeof(report->why), "%s is not a KVM device",
			 request->device);
	report->has_offered = !report->error;
	if (report->has_offered)
		report->error = dl_probe(fd, &request->options, &report->chosen, report->why,
					 sizeof(report->why));
	close(fd);
}

static const char *mode_name(uint32_t mode)
{
	return mode == DL_MODE_RING ? "ring" : "bitmap";
}

static void print_row(const char *key, const char *value)
{
	printf("  %-34s %s\n", key, value);
}

static void print_ring_row(const char *key, uint32_t entries)
{
	char value[64];

	snprintf(value, sizeof(value), "%" PRIu32 " entries, %" PRIu64 " KiB per vCPU", entries,
		 (uint64_t)entries * RING_ENTRY_BYTES / 1024);
	print_row(key, entries ? value : "none");
}

static void print_offers(const struct dl_config *offered)
{
	char page[32];

	puts("\nOffered by this kernel");
	for (size_t i = 0; i < N_OFFERS; i++)
		print_row(offers[i].text, offered->has & offers[i].bit ? "yes" : "no");
	print_ring_row("largest ring", offered->ring_max_entries);
	snprintf(page, sizeof(page), "%" PRIu32 " KiB", offered->page_bytes / 1024);
	print_row("page size", page);
}

static void print_choice(const struct dl_config *chosen, const char *why)
{
	puts("\nChosen by the library");
	print_row("mode", mode_name(chosen->mode));
	if (chosen->mode == DL_MODE_RING) {
		print_ring_row("ring", chosen->ring_entries);
		print_row("backup bitmap", chosen->backup ? "yes" : "no");
	}
	fputs("\nReason\n  ", stdout);
	output_wrapped(stdout, 2, 2, why);
}

static void print_table(const struct report *report)
{
	uint32_t version = dl_library_version();

	printf("libdirtylog %u.%u.%u, Linux %s %s, %s\n", version >> 16, version >> 8 & 0xff,
	       version & 0xff, report->host.release, report->host.machine, report->device);
	if (report->has_offered)
		print_offers(&report->offered);
	if (!report->error)
		print_choice(&report->chosen, report->why);
}

static void print_error(const struct report *report)
{
	output_flush();
	output_wrapped(stderr, fprintf(stderr, "\n%s: ", program_invocation_short_name) - 1, 0,
		       report->why);
}

static void print_json_string(const char *key, const char *text)
{
	printf("\"%s\": ", key);
	output_json_string(text);
}

static void print_json_offers(const struct dl_config *offered)
{
	printf(",\n  \"offers\": { ");
	for (size_t i = 0; i < N_OFFERS; i++)
		printf("\"%s\": %s, ", offers[i].key,
		       offered->has & offers[i].bit ? "true" : "false");
	printf("\"ring_max_entries\": %" PRIu32 ", \"page_bytes\": %" PRIu32 " }",
	       offered->ring_max_entries, offered->page_bytes);
}

static void print_json(const struct report *report)
{
	uint32_t version = dl_library_version();

	printf("{\n  \"library\": \"%u.%u.%u\",\n  ", version >> 16, version >> 8 & 0xff,
	       version & 0xff);
	print_json_string("kernel", report->host.release);
	printf(",\n  ");
	print_json_string("machine", report->host.machine);
	printf(",\n  ");
	print_json_string("device", report->device);
	if (report->has_offered)
		print_json_offers(&report->offered);
	if (!report->error)
		printf(",\n  \"choice\": { \"mode\": \"%s\", \"ring_entries\": %" PRIu32
		       ", \"backup\": %s }",
		       mode_name(report->chosen.mode), report->chosen.ring_entries,
		       report->chosen.backup ? "true" : "false");
	printf(",\n  \"error\": %d,\n  ", -report->error);
	print_json_string("reason", report->why);
	printf("\n}\n");
}

int main(int argc, char **argv)
{
	struct request request = {
		.device = "/dev/kvm",
		.options = { .size = sizeof(request.options) },
	};
	struct report report = { 0 };

	output_open();
	parse(argc, argv, &request);
	report.device = request.device;
	uname(&report.host);
	probe_device(&request, &report);
	if (json)
		print_json(&report);
	else
		print_table(&report);
	if (report.error && !json)
		print_error(&report);
	leave(report.error ? EXIT_UNSUPPORTED : EXIT_OK);
	return 0;
}
