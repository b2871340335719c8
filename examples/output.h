/* SPDX-License-Identifier: MIT */
#ifndef EXAMPLES_OUTPUT_H
#define EXAMPLES_OUTPUT_H

#include <stdint.h>
#include <stdio.h>

/* Output of the example programs. */

/*
 * Called first. Gives a closed descriptor 0, 1 or 2 a file, so that no socket becomes the standard
 * output. A reader that goes away causes an error, not a signal that ends the program.
 */
void output_open(void);

/* Writes what was printed to the standard output; an error shows at the end. */
void output_flush(void);

/* Called last. A negative errno value: some of the standard output is lost. */
int output_close(void);

/* The width of the stream's terminal, or 80. */
int output_columns(FILE *to);

/*
 * Prints the text, which begins at a column, and a newline. Wraps it at the stream's width; further
 * lines begin at the indent.
 */
void output_wrapped(FILE *to, int column, int indent, const char *text);

/* Writes a number with a comma before each three digits; text has room for 27 bytes. */
const char *output_grouped(char *text, uint64_t value);

/* Prints a JSON string with its quotes. */
void output_json_text(FILE *to, const char *text);

/* To the standard output. */
void output_json_string(const char *text);

#endif
