/* SPDX-License-Identifier: MIT */
/*
 * Tells what this kernel offers for dirty logging, and what libdirtylog would choose and why.
 * Opens the KVM device and asks; makes no VM and changes nothing.
 */
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

#define WIDTH_COLUMNS	 80
#define RING_ENTRY_BYTES 16

enum { EXIT_FINE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

struct request {
	const char *device;
	bool json;
	struct dl_options options;
};

/* All that is to be told. */
struct answer {
	struct utsname host;
	const char *device;
	int error;		  /* negative errno: could not be asked, or was refused */
	bool asked;		  /* offered is filled */
	struct dl_config offered; /* with no wishes */
	struct dl_config chosen;  /* with those of the command line */
	char why[512];		  /* the reason of the choice, or of the error */
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
	{ DL_HAS_RING_TSO, "ring_tso", "dirty ring (x86)" },
	{ DL_HAS_RING_ACQ_REL, "ring_acq_rel", "dirty ring, acquire and release" },
	{ DL_HAS_BACKUP, "backup", "backup bitmap beside the ring" },
	{ DL_HAS_MANUAL_PROTECT, "manual_protect", "bitmap: manual protect" },
	{ DL_HAS_INITIALLY_SET, "initially_set", "bitmap: initially set" },
};
#define N_OFFERS (sizeof(offers) / sizeof(offers[0]))

static const char usage_text[] =
	"Usage: probe [option]...\n"
	"\n"
	"Tells what this kernel offers for dirty logging, and what libdirtylog would\n"
	"choose and why. Makes no VM and changes nothing.\n"
	"\n"
	"  --mode auto|ring|bitmap        ask for a mode (default: auto)\n"
	"  --backup auto|off|required     ask for the backup bitmap (default: auto)\n"
	"  --ring-entries N               ask for a ring size, a power of two\n"
	"  --device PATH                  the KVM device (default: /dev/kvm)\n"
	"  --json                         one JSON object in place of the table\n"
	"  --help                         this text\n"
	"\n"
	"Exit status: 0: the answer is above; 1: the device cannot be asked, or what was\n"
	"asked for is not to be had; 2: wrong usage.\n";

static void bad_usage(const char *what, const char *value)
{
	fprintf(stderr, "probe: %s '%s'; see probe --help\n", what, value);
	exit(EXIT_USAGE);
}

static uint32_t value_of(const struct name *names, const char *option, const char *name)
{
	for (; names->name; names++)
		if (!strcmp(names->name, name))
			return names->value;
	bad_usage(option, name);
	return 0;
}

static uint32_t number_of(const char *text)
{
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || *end || text[0] < '0' || text[0] > '9' || number > UINT32_MAX)
		bad_usage("no ring size", text);
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

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'm':
			request->options.mode = value_of(modes, "no mode", optarg);
			break;
		case 'b':
			request->options.backup = value_of(backups, "no backup", optarg);
			break;
		case 'r':
			request->options.ring_entries = number_of(optarg);
			break;
		case 'd':
			request->device = optarg;
			break;
		case 'j':
			request->json = true;
			break;
		case 'h':
			fputs(usage_text, stdout);
			exit(EXIT_FINE);
		default: /* getopt has said what is wrong */
			fputs("see probe --help\n", stderr);
			exit(EXIT_USAGE);
		}
	}
	if (optind < argc)
		bad_usage("unexpected argument", argv[optind]);
}

/* Who may open the device, for those who may not. */
static void say_who_may(const char *device, char *text, size_t text_bytes)
{
	const struct group *group = NULL;
	struct stat status;

	if (!stat(device, &status) && (status.st_mode & 0060) == 0060)
		group = getgrgid(status.st_gid);
	if (group && status.st_gid)
		snprintf(text, text_bytes,
			 "no access to %s; its group '%s' has it: sudo usermod -aG %s \"$USER\", "
			 "then log in again",
			 device, group->gr_name, group->gr_name);
	else
		snprintf(text, text_bytes,
			 "no access to %s; root can give it: sudo setfacl -m \"u:$USER:rw\" %s",
			 device, device);
}

static void say_why_closed(const char *device, int error, char *text, size_t text_bytes)
{
	if (error == EACCES || error == EPERM)
		say_who_may(device, text, text_bytes);
	else if (error == ENOENT)
		snprintf(text, text_bytes,
			 "there is no %s: the kvm module is not loaded, or the processor's "
			 "virtualization is off or, in a virtual machine, not passed on",
			 device);
	else
		snprintf(text, text_bytes, "cannot open %s: %s", device, strerror(error));
}

static void ask(const struct request *request, struct answer *answer)
{
	int fd = open(request->device, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		answer->error = -errno;
		say_why_closed(request->device, errno, answer->why, sizeof(answer->why));
		return;
	}
	answer->offered.size = sizeof(answer->offered);
	answer->chosen.size = sizeof(answer->chosen);
	answer->error = dl_probe(fd, NULL, &answer->offered, answer->why, sizeof(answer->why));
	if (answer->error == -EBADF)
		snprintf(answer->why, sizeof(answer->why), "%s is not a KVM device",
			 request->device);
	answer->asked = !answer->error;
	if (answer->asked)
		answer->error = dl_probe(fd, &request->options, &answer->chosen, answer->why,
					 sizeof(answer->why));
	close(fd);
}

static const char *mode_name(uint32_t mode)
{
	return mode == DL_MODE_RING ? "ring" : "bitmap";
}

/* Breaks a text into lines no longer than the table's, each indented. */
static void print_wrapped(FILE *to, const char *text, int indent_columns)
{
	int column = 0;

	while (*text) {
		int length = (int)strcspn(text, " ");

		if (column && column + 1 + length > WIDTH_COLUMNS) {
			fputc('\n', to);
			column = 0;
		}
		if (column)
			column += fprintf(to, " %.*s", length, text);
		else
			column = fprintf(to, "%*s%.*s", indent_columns, "", length, text);
		text += length;
		text += strspn(text, " ");
	}
	fputc('\n', to);
}

static void print_row(const char *key, const char *value)
{
	printf("  %-34s %s\n", key, value);
}

static void print_ring_row(const char *key, uint32_t entries)
{
	char value[64];

	snprintf(value, sizeof(value), "%" PRIu32 " entries, %" PRIu64 " KiB a vCPU", entries,
		 (uint64_t)entries * RING_ENTRY_BYTES / 1024);
	print_row(key, entries ? value : "none");
}

static void print_offers(const struct dl_config *offered)
{
	char page[32];

	puts("\nThis kernel offers");
	for (size_t i = 0; i < N_OFFERS; i++)
		print_row(offers[i].text, offered->has & offers[i].bit ? "yes" : "no");
	print_ring_row("largest ring", offered->ring_max_entries);
	snprintf(page, sizeof(page), "%" PRIu32 " KiB", offered->page_bytes / 1024);
	print_row("page", page);
}

static void print_choice(const struct dl_config *chosen, const char *why)
{
	puts("\nThe library would choose");
	print_row("mode", mode_name(chosen->mode));
	if (chosen->mode == DL_MODE_RING) {
		print_ring_row("ring", chosen->ring_entries);
		print_row("backup bitmap", chosen->backup ? "yes" : "no");
	}
	puts("\nIts reason");
	print_wrapped(stdout, why, 2);
}

static void print_table(const struct answer *answer)
{
	uint32_t version = dl_library_version();

	printf("libdirtylog %u.%u.%u, Linux %s %s, %s\n", version >> 16, version >> 8 & 0xff,
	       version & 0xff, answer->host.release, answer->host.machine, answer->device);
	if (answer->asked)
		print_offers(&answer->offered);
	if (!answer->error)
		print_choice(&answer->chosen, answer->why);
}

static void print_error(const struct answer *answer)
{
	char text[sizeof(answer->why) + 16];

	snprintf(text, sizeof(text), "probe: %s", answer->why);
	fflush(stdout);
	fputc('\n', stderr);
	print_wrapped(stderr, text, 0);
}

static void print_json_string(const char *key, const char *text)
{
	printf("\"%s\": \"", key);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		if ((unsigned char)*text < ' ')
			printf("\\u%04x", *text);
		else
			putchar(*text);
	}
	putchar('"');
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

static void print_json(const struct answer *answer)
{
	uint32_t version = dl_library_version();

	printf("{\n  \"library\": \"%u.%u.%u\",\n  ", version >> 16, version >> 8 & 0xff,
	       version & 0xff);
	print_json_string("kernel", answer->host.release);
	printf(",\n  ");
	print_json_string("machine", answer->host.machine);
	printf(",\n  ");
	print_json_string("device", answer->device);
	if (answer->asked)
		print_json_offers(&answer->offered);
	if (!answer->error)
		printf(",\n  \"choice\": { \"mode\": \"%s\", \"ring_entries\": %" PRIu32
		       ", \"backup\": %s }",
		       mode_name(answer->chosen.mode), answer->chosen.ring_entries,
		       answer->chosen.backup ? "true" : "false");
	printf(",\n  \"error\": %d,\n  ", -answer->error);
	print_json_string("reason", answer->why);
	printf("\n}\n");
}

int main(int argc, char **argv)
{
	struct request request = {
		.device = "/dev/kvm",
		.options = { .size = sizeof(request.options) },
	};
	struct answer answer = { 0 };

	parse(argc, argv, &request);
	answer.device = request.device;
	uname(&answer.host);
	ask(&request, &answer);
	if (request.json)
		print_json(&answer);
	else
		print_table(&answer);
	if (answer.error && !request.json)
		print_error(&answer);
	return answer.error ? EXIT_REFUSED : EXIT_FINE;
}
