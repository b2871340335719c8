/* SPDX-License-Identifier: MIT */
/*
 * Flips a bit of each byte of a point's file in turn, and cuts the file at each length: the reader
 * of examples/snapshot must notice each. Arguments: the file, and N: of the contents of pages only
 * every Nth byte, and of the lengths within them.
 */
#include "chain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t step; /* through the contents of pages */
static size_t contents_end;
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
	if (!data || bytes < sizeof(struct snap_footer) || read(fd, data, bytes) != (ssize_t)bytes)
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

static bool in_contents(size_t at)
{
	return at >= sizeof(struct snap_header) && at < contents_end;
}

static size_t next(size_t at)
{
	return in_contents(at) && at + step < contents_end ? at + step : at + 1;
}

static unsigned long flip_each(int fd)
{
	unsigned long unnoticed = 0;

	for (size_t at = 0; at < bytes; at = next(at)) {
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
		if (in_contents(length) && length % step)
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

static void write_file(const char *name)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0666);

	if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes)
		die(name);
	close(fd);
}

/* A file of another guest takes the name of a point after the headers have been read. */
static unsigned long replace(void)
{
	char directory[] = "/tmp/snapshot-flips-XXXXXX";
	struct snap_header *header = (struct snap_header *)data;
	struct reader reader;
	struct chain chain;
	char name[SNAP_NAME_BYTES];
	int fd, r;

	if (!mkdtemp(directory) || chdir(directory))
		die(directory);
	snap_name(name, header->number);
	write_file(name);
	fd = open(".", O_RDONLY | O_DIRECTORY);
	if (chain_load(&chain, fd) || chain.n != 1 || chain_read(&chain, chain.points, &reader))
		die("the point cannot be read");
	reader_close(&reader);
	header->memory_bytes *= 2;
	snap_seal_header(header);
	write_file(name);
	r = chain_read(&chain, chain.points, &reader);
	if (r != -EAGAIN)
		fprintf(stderr, "a file that was replaced is read: %d\n", r);
	chain_free(&chain);
	close(fd);
	unlink(name);
	rmdir(directory);
	return r != -EAGAIN;
}

int main(int argc, char **argv)
{
	struct snap_footer footer;
	unsigned long unnoticed;
	int fd;

	step = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	if (!step) {
		fprintf(stderr, "usage: snapshot_flips FILE N\n");
		return 2;
	}
	load(argv[1]);
	memcpy(&footer, data + bytes - sizeof(footer), sizeof(footer));
	contents_end = footer.index_bytes;
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
	unnoticed += replace();
	printf("%zu bytes, each %zuth of the contents; %lu unnoticed\n", bytes, step, unnoticed);
	free(data);
	return unnoticed != 0;
}
