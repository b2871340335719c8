/* SPDX-License-Identifier: MIT */
#include "json.h"

#include <ctype.h>
#include <string.h>

enum { MAX_DEPTH = 8 };

struct parser {
	const char *at;
	char path[JSON_PATH_BYTES];
	uint32_t index;
	unsigned int depth;
	json_visitor visit;
	void *opaque;
};

static bool parse_value(struct parser *parser);

static char peek(struct parser *parser)
{
	parser->at += strspn(parser->at, " \t\r\n");
	return *parser->at;
}

static bool accept(struct parser *parser, char c)
{
	if (peek(parser) != c)
		return false;
	parser->at++;
	return true;
}

/* An escape sequence, after its backslash. Few of them are ASCII. */
static bool parse_escape(struct parser *parser, char *c)
{
	*c = *parser->at++;
	if (*c == 'u') {
		*c = '?';
		for (int i = 0; i < 4; i++)
			if (!isxdigit((unsigned char)*parser->at++))
				return false;
		return true;
	}
	if (!*c || !strchr("\"\\/bfnrt", *c))
		return false;
	if (isalpha((unsigned char)*c))
		*c = '?';
	return true;
}

static bool parse_string(struct parser *parser, char *to, size_t bytes)
{
	size_t n = 0;

	if (!accept(parser, '"'))
		return false;
	while (*parser->at != '"') {
		char c = *parser->at++;

		if (!c || (c == '\\' && !parse_escape(parser, &c)))
			return false;
		if (n + 1 < bytes)
			to[n++] = c >= ' ' && c <= '~' ? c : '?';
	}
	parser->at++;
	to[n] = '\0';
	return true;
}

/* A fraction is cut off, and a negative number is 0: counters have neither. */
static bool parse_number(struct parser *parser, uint64_t *number)
{
	bool negative = *parser->at == '-';

	parser->at += negative;
	if (!isdigit((unsigned char)*parser->at))
		return false;
	for (*number = 0; isdigit((unsigned char)*parser->at); parser->at++) {
		unsigned int digit = (unsigned int)(*parser->at - '0');

		*number = *number > (UINT64_MAX - digit) / 10 ? UINT64_MAX : *number * 10 + digit;
	}
	parser->at += strspn(parser->at, "0123456789.eE+-");
	if (negative)
		*number = 0;
	return true;
}

static bool parse_word(struct parser *parser, uint64_t *number)
{
	static const char *const words[] = { "false", "true", "null" };

	for (unsigned int i = 0; i < 3; i++) {
		size_t bytes = strlen(words[i]);

		if (!strncmp(parser->at, words[i], bytes)) {
			parser->at += bytes;
			*number = i == 1;
			return true;
		}
	}
	return false;
}

static bool parse_scalar(struct parser *parser)
{
	struct json_value value = { .path = parser->path, .index = parser->index };
	char text[JSON_TEXT_BYTES] = "", c = peek(parser);

	value.text = text;
	value.is_text = c == '"';
	if (c == '"'				    ? !parse_string(parser, text, sizeof(text))
	    : c == '-' || isdigit((unsigned char)c) ? !parse_number(parser, &value.number)
						    : !parse_word(parser, &value.number))
		return false;
	parser->visit(parser->opaque, &value);
	return true;
}

/* Appends to the path. Returns its length before, or a negative number: there is no room. */
static int enter(struct parser *parser, const char *separator, const char *name)
{
	size_t before = strlen(parser->path);

	if (before + strlen(separator) + strlen(name) >= sizeof(parser->path))
		return -1;
	strcat(parser->path, before ? separator : "");
	strcat(parser->path, name);
	return (int)before;
}

static bool parse_member(struct parser *parser)
{
	char name[JSON_PATH_BYTES];
	int before;

	if (!parse_string(parser, name, sizeof(name)) || !accept(parser, ':'))
		return false;
	before = enter(parser, ".", name);
	if (before < 0 || !parse_value(parser))
		return false;
	parser->path[before] = '\0';
	return true;
}

static bool parse_object(struct parser *parser)
{
	if (accept(parser, '}'))
		return true;
	do
		if (!parse_member(parser))
			return false;
	while (accept(parser, ','));
	return accept(parser, '}');
}

static bool parse_array(struct parser *parser)
{
	uint32_t outer = parser->index;
	int before = enter(parser, "", "[]");

	if (before < 0)
		return false;
	parser->index = 0;
	if (peek(parser) != ']') {
		do
			if (!parse_value(parser))
				return false;
		while (accept(parser, ',') && ++parser->index);
	}
	parser->path[before] = '\0';
	parser->index = outer;
	return accept(parser, ']');
}

static bool parse_value(struct parser *parser)
{
	bool good;

	if (parser->depth == MAX_DEPTH)
		return false;
	parser->depth++;
	if (accept(parser, '{'))
		good = parse_object(parser);
	else if (accept(parser, '['))
		good = parse_array(parser);
	else
		good = parse_scalar(parser);
	parser->depth--;
	return good;
}

bool json_visit(const char *text, json_visitor visit, void *opaque)
{
	struct parser parser = { .at = text, .visit = visit, .opaque = opaque };

	return parse_value(&parser) && !peek(&parser);
}
