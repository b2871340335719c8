/* SPDX-License-Identifier: MIT */
/*
 * Runs a target without libFuzzer: every file of the corpus, then mutations of them, which are the
 * same in every run. The input of a finding is written to a file.
 */
#include "fuzz.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	MAX_FILES = 4096,
	MAX_BYTES = 4096,	/* of an input */
	INPUT_SECONDS_MAX = 30, /* also with sanitizers and on slow machines */
	SANITIZER_SLOWDOWN = 8, /* at least */
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static struct file {
	uint8_t *data;
	size_t bytes;
	char *name;
} files[MAX_FILES];
static unsigned int file_count;

static uint8_t current[MAX_BYTES];
static size_t current_bytes;
static const char *save_as = "fuzz-finding";

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint32_t below(uint32_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state * UINT64_C(0x2545f4914f6cdd1d) >> 33) % limit);
}

/* Runs in a signal handler. */
static void save_current(void)
{
	static const char message[] = "the input is in ";
	int fd = open(save_as, O_WRONLY | O_CREAT | O_TRUNC, 0666);

	if (fd < 0 || write(fd, current, current_bytes) != (ssize_t)current_bytes)
		return;
	close(fd);
	if (write(2, message, sizeof(message) - 1) < 0 || write(2, save_as, strlen(save_as)) < 0 ||
	    write(2, "\n", 1) < 0)
		return;
}

static void on_finding(int number)
{
	static const char message[] = "timeout: the input does not terminate\n";

	if (number == SIGALRM && write(2, message, sizeof(message) - 1) < 0)
		_exit(1);
	save_current();
	_exit(1);
}

/* Sanitizers exit without a signal. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void install_handlers(void)
{
	static const int numbers[] = { SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGALRM };
	struct sigaction action = { .sa_handler = on_finding };

	sigemptyset(&action.sa_mask);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (!SANITIZED || numbers[i] == SIGALRM || numbers[i] == SIGABRT)
			sigaction(numbers[i], &action, NULL);
	if (__sanitizer_set_death_callback)
		__sanitizer_set_death_callback(save_current);
}

static void run_current(void)
{
	/* An exact-size copy, so that a read past the end is detected. */
	uint8_t *data = malloc(current_bytes ? current_bytes : 1);

	if (!data)
		exit(1);
	memcpy(data, current, current_bytes);
	alarm(INPUT_SECONDS_MAX);
	LLVMFuzzerTestOneInput(data, current_bytes);
	free(data);
}

static void read_file(const char *path)
{
	struct file *file = &files[file_count];
	FILE *stream = fopen(path, "rbe");

	if (!stream) {
		perror(path);
		exit(2);
	}
	file->data = malloc(MAX_BYTES);
	file->name = strdup(path);
	if (!file->data || !file->name || file_count++ == MAX_FILES - 1)
		exit(2);
	file->bytes = fread(file->data, 1, MAX_BYTES, stream);
	fclose(stream);
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* A file, or all files of a directory in the order of their names. */
static void read_path(const char *path)
{
	struct dirent **entries;
	char name[4096];
	int n = scandir(path, &entries, is_visible, alphasort);

	if (n < 0) {
		read_file(path);
		return;
	}
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		read_file(name);
		free(entries[i]);
	}
	free(entries);
}

static void remove_bytes(size_t at, size_t bytes)
{
	memmove(current + at, current + at + bytes, current_bytes - at - bytes);
	current_bytes -= bytes;
}

static void insert_bytes(size_t at, const uint8_t *from, size_t bytes)
{
	if (bytes > MAX_BYTES - current_bytes)
		bytes = MAX_BYTES - current_bytes;
	memmove(current + at + bytes, current + at, current_bytes - at);
	if (from)
		memmove(current + at, from, bytes);
	else
		for (size_t i = 0; i < bytes; i++)
			current[at + i] = (uint8_t)below(256);
	current_bytes += bytes;
}

/* Inserts a piece of another file at this position, or overwrites with it. */
static void splice_file(size_t at)
{
	const struct file *other = &files[below(file_count)];
	size_t from, bytes, room = current_bytes - at;

	if (!other->bytes)
		return;
	from = below((uint32_t)other->bytes);
	bytes = 1 + below((uint32_t)(other->bytes - from));
	if (below(2))
		remove_bytes(at, room < bytes ? room : bytes);
	insert_bytes(at, other->data + from, bytes);
}

static void repeat(size_t at)
{
	uint8_t piece[64];
	size_t bytes = current_bytes - at;

	if (bytes > sizeof(piece))
		bytes = sizeof(piece);
	bytes = 1 + below((uint32_t)bytes);
	memcpy(piece, current + at, bytes);
	insert_bytes(at, piece, bytes);
}

static void mutate_once(void)
{
	static const uint8_t limits[] = { 0, 1, 2, 3, 31, 63, 64, 127, 128, 192, 254, 255 };
	size_t at;

	if (!current_bytes)
		insert_bytes(0, NULL, 1 + below(32));
	at = below((uint32_t)current_bytes);
	switch (below(8)) {
	case 0:
		current[at] ^= (uint8_t)(1u << below(8));
		break;
	case 1:
		current[at] = (uint8_t)below(256);
		break;
	case 2:
		current[at] = limits[below(sizeof(limits))];
		break;
	case 3:
		current[at] = (uint8_t)(current[at] + below(9) - 4);
		break;
	case 4:
		insert_bytes(at, NULL, 1 + below(16));
		break;
	case 5:
		remove_bytes(at, 1 + below((uint32_t)(current_bytes - at)) % 32);
		break;
	case 6:
		repeat(at);
		break;
	case 7:
		splice_file(at);
		break;
	}
}

static void load_file(unsigned int number)
{
	memcpy(current, files[number].data, files[number].bytes);
	current_bytes = files[number].bytes;
}

static void replay_all(void)
{
	for (unsigned int i = 0; i < file_count; i++) {
		load_file(i);
		run_current();
	}
}

static void mutate_all(unsigned long mutations)
{
	for (unsigned long i = 0; i < mutations; i++) {
		load_file(below(file_count));
		for (uint32_t n = 1 + below(8); n; n--)
			mutate_once();
		run_current();
	}
}

static int usage(const char *program, int status)
{
	fprintf(status ? stderr : stdout,
		"Usage: %s [--mutations N] [--seed N] [--save FILE] FILE-OR-DIRECTORY...\n"
		"Runs the target with each file, then with N mutations of them (default: 0), an\n"
		"eighth of that under a sanitizer. The same seed gives the same mutations. The\n"
		"input of a finding is written to FILE (default: fuzz-finding).\n",
		program);
	return status;
}

static void clean_up(void)
{
	for (unsigned int i = 0; i < file_count; i++) {
		free(files[i].data);
		free(files[i].name);
	}
}

int main(int argc, char **argv)
{
	unsigned long mutations = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help"))
			return usage(argv[0], 0);
		if (argv[i][0] != '-')
			read_path(argv[i]);
		else if (i + 1 == argc)
			return usage(argv[0], 2);
		else if (!strcmp(argv[i], "--mutations"))
			mutations = strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--seed"))
			random_state += strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--save"))
			save_as = argv[++i];
		else
			return usage(argv[0], 2);
	}
	if (!file_count)
		return usage(argv[0], 2);
	install_handlers();
	LLVMFuzzerInitialize(&argc, &argv);
	replay_all();
	mutations /= SANITIZED ? SANITIZER_SLOWDOWN : 1;
	mutate_all(mutations);
	dprintf(1, "%u files and %lu mutations of them: no finding\n", file_count, mutations);
	clean_up();
	return 0;
}
