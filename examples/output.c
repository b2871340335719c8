/* SPDX-License-Identifier: MIT */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int lost; /* negative errno: why some of the standard output is lost */

enum { DEFAULT_COLUMNS = 80, LEAST_COLUMNS = 40 };

void output_open(void)
{
	/* Each becomes the lowest free one. Not writable: what is printed there is an error. */
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) < 0)
			_exit(1);
	signal(SIGPIPE, SIG_IGN);
}

void output_flush(void)
{
	if (fflush(stdout) && !lost)
		lost = -errno;
}

int output_close(void)
{
	output_flush();
	/* stdio may have tried to write before, and does not tell why it could not. */
	return lost || !ferror(stdout) ? lost : -EIO;
}

int output_columns(FILE *to)
{
	struct winsize size = { 0 };

	if (ioctl(fileno(to), TIOCGWINSZ, &size) || !size.ws_col)
		return DEFAULT_COLUMNS;
	return size.ws_col < LEAST_COLUMNS ? LEAST_COLUMNS : size.ws_col;
}

void output_wrapped(FILE *to, int column, int indent, const char *text)
{
	int columns = output_columns(to);
	bool line_empty = true;

	while (*text) {
		int length = (int)strcspn(text, " ");

		if (!line_empty && column + 1 + length > columns) {
			fprintf(to, "\n%*s", indent, "");
			column = indent;
			line_empty = true;
		}
		fprintf(to, "%s%.*s", line_empty ? "" : " ", length, text);
		column += length + !line_empty;
		line_empty = false;
		text += length;
		text += strspn(text, " ");
	}
	fputc('\n', to);
}

const char *output_grouped(char *text, uint64_t value)
{
	char digits[24];
	int n = snprintf(digits, sizeof(digits), "%" PRIu64, value), at = 0;

	for (int i = 0; i < n; i++) {
		if (i && !((n - i) % 3))
			text[at++] = ',';
		text[at++] = digits[i];
	}
	text[at] = '\0';
	return text;
}

void output_json_text(FILE *to, const char *text)
{
	fputc('"', to);
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(to, "\\%c", c);
		else if (c < ' ')
			fprintf(to, "\\u%04x", (unsigned int)c);
		else
			fputc(c, to);
	}
	fputc('"', to);
}

void output_json_string(const char *text)
{
	output_json_text(stdout, text);
}
