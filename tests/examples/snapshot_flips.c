/* SPDX-License-Identifier: MIT */
/*
 * Flips a bit of each byte of a point's file in turn, and cuts the file at each length: the reader
 * of examples/snapshot must notice each. Argument: the file.
 */
#include "reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A sanitizer has more to do for each byte. */
#ifdef __SANITIZE_ADDRESS__
enum { STEP = 13 };
#else
enum { STEP = 1 };
#endif

static uint8_t *data;
static size_t bytes;

static void die(const char *what)
{
	fprintf(stderr, "snapshot_flips: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void load(const char *path)
{
	int fd = open(path, O_RDONLY);
	struct stat file;

	if (fd < 0 || fstat(fd, &file))
		die(path);
	bytes = (size_t)file.st_size;
	data = malloc(bytes);
	if (!data || read(fd, data, bytes) != (ssize_t)bytes)
		die(path);
	close(fd);
}

/* A file with the data, whose descriptor a reader closes. */
static int new_file(void)
{
	int fd = memfd_create("point", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes)
		die("memfd");
	return fd;
}

static bool sound(int fd)
{
	struct reader reader;
	int r = reader_open(&reader, dup(fd));

	if (!r)
		r = reader_verify(&reader);
	reader_close(&reader);
	return !r;
}

static unsigned long flip_each(int fd)
{
	unsigned long unnoticed = 0;

	for (size_t at = 0; at < bytes; at += STEP) {
		uint8_t flipped = data[at] ^ (uint8_t)(1 << at % 8);

		if (pwrite(fd, &flipped, 1, (off_t)at) != 1)
			die("pwrite");
		if (sound(fd)) {
			fprintf(stderr, "byte %zu was flipped unnoticed\n", at);
			unnoticed++;
		}
		if (pwrite(fd, &data[at], 1, (off_t)at) != 1)
			die("pwrite");
	}
	return unnoticed;
}

static unsigned long cut_each(int fd)
{
	unsigned long unnoticed = 0;

	for (size_t length = bytes; length--;) {
		if (length % STEP && bytes - length > 200)
			continue;
		if (ftruncate(fd, (off_t)length))
			die("ftruncate");
		if (sound(fd)) {
			fprintf(stderr, "%zu of its bytes are sound\n", length);
			unnoticed++;
		}
	}
	return unnoticed;
}

int main(int argc, char **argv)
{
	unsigned long unnoticed;
	int fd;

	if (argc != 2) {
		fprintf(stderr, "usage: snapshot_flips FILE\n");
		return 2;
	}
	load(argv[1]);
	fd = new_file();
	if (!sound(fd)) {
		fprintf(stderr, "the file is not sound\n");
		return 1;
	}
	unnoticed = flip_each(fd);
	if (!sound(fd)) {
		fprintf(stderr, "the file is not sound any more\n");
		return 1;
	}
	unnoticed += cut_each(fd);
	printf("%zu bytes flipped and cut, %lu unnoticed\n", bytes / STEP, unnoticed);
	free(data);
	return unnoticed != 0;
}
