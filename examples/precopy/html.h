/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_HTML_H
#define PRECOPY_HTML_H

#include <stdint.h>
#include <stdio.h>

/* Pieces of a page of HTML that is well-formed XML too. Text from elsewhere is always escaped. */

/* With the style of the whole page; nothing is loaded from anywhere. */
void html_begin(FILE *to, const char *title);
void html_end(FILE *to);

/* Escapes what has a meaning in HTML; what is no character of XML or no UTF-8 becomes U+FFFD. */
void html_text(FILE *to, const char *text);

/* A row of a table of names and values; the value is escaped. */
void html_row(FILE *to, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* A value with its exact number for programs; id may be NULL. The text is made by format. */
void html_data(FILE *to, const char *id, uint64_t value, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

enum { HTML_NUMBER_BYTES = 48 };

/* A size with its unit. Returns text. */
const char *html_bytes(char *text, uint64_t bytes);

#endif
