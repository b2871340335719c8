/* SPDX-License-Identifier: MIT */
#include "html.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>

static const char style[] =
	":root{color-scheme:light dark;--bg:#fff;--fg:#1c2128;--mute:#59636e;--line:#d1d9e0;"
	"--dirty:#bc4c00;--sent:#0969da;--good:#1a7f37;--bad:#cf222e;--shade:#eef1f4;"
	"--h0:#eef1f4;--h1:#fde0a8;--h2:#f7b267;--h3:#e2711d;--h4:#a4161a}\n"
	"@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--mute:#9198a1;"
	"--line:#3d444d;--dirty:#f0883e;--sent:#58a6ff;--good:#3fb950;--bad:#ff7b72;"
	"--shade:#1c232c;--h0:#1c232c;--h1:#5c3d12;--h2:#a0590f;--h3:#e2711d;--h4:#ffb86b}}\n"
	"@media print{:root{color-scheme:light;--bg:#fff;--fg:#000;--mute:#444;--line:#bbb;"
	"--dirty:#bc4c00;--sent:#0969da;--good:#1a7f37;--bad:#cf222e;--shade:#eee;"
	"--h0:#eee;--h1:#fde0a8;--h2:#f7b267;--h3:#e2711d;--h4:#a4161a}"
	"body{max-width:none;margin:0;font-size:10pt}*{print-color-adjust:exact;"
	"-webkit-print-color-adjust:exact}section,figure,tr{break-inside:avoid}}\n"
	"body{margin:2em auto;padding:0 1em;max-width:56em;background:var(--bg);color:var(--fg);"
	"font:15px/1.5 system-ui,sans-serif}\n"
	"h1{font-size:1.6em;margin:0}h2{font-size:1.15em;margin:2em 0 .5em;padding-bottom:.2em;"
	"border-bottom:1px solid var(--line)}\n"
	"p{margin:.5em 0}.mute,figcaption{color:var(--mute)}figure{margin:0}\n"
	".good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}\n"
	"caption{text-align:left;white-space:nowrap;padding-top:1em}\n"
	".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
	"th,td{padding:.2em .8em .2em 0;text-align:left;vertical-align:top;"
	"overflow-wrap:anywhere}\n"
	".passes{width:100%}.passes th,.passes td{text-align:right;"
	"border-bottom:1px solid var(--line);padding:.25em .35em;font-size:.93em}\n"
	".pairs th{font-weight:400;color:var(--mute);white-space:nowrap;padding-right:1.5em}\n"
	"code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}\n"
	"svg{display:block;width:100%;height:auto}svg text{fill:var(--mute);font-size:11px;"
	"font-family:system-ui,sans-serif}\n"
	".axis{stroke:var(--line);fill:none}.pass{stroke:var(--line);stroke-dasharray:2 3}\n"
	".dirty{stroke:var(--dirty);fill:none;stroke-width:1.8}"
	".sent{stroke:var(--sent);fill:none;stroke-width:1.8;stroke-dasharray:6 3}\n"
	".point{fill:var(--dirty)}.state{fill:var(--sent)}"
	".limit{stroke:var(--bad);stroke-dasharray:5 4;fill:none}\n"
	".stop{fill:var(--shade)}.h0{fill:var(--h0)}.h1{fill:var(--h1)}.h2{fill:var(--h2)}"
	".h3{fill:var(--h3)}.h4{fill:var(--h4)}\n"
	".key{display:inline-block;width:1.6em;height:.8em;margin:0 .4em 0 1em;"
	"vertical-align:middle}\n"
	".key line{stroke-width:3}\n";

void html_begin(FILE *to, const char *title)
{
	fputs("<!DOCTYPE html>\n"
	      "<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n"
	      "<meta charset=\"utf-8\"/>\n"
	      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
	      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
	      "style-src 'unsafe-inline'\"/>\n<title>",
	      to);
	html_text(to, title);
	fprintf(to, "</title>\n<style>\n%s</style>\n</head>\n<body>\n", style);
}

void html_end(FILE *to)
{
	fputs("</body>\n</html>\n", to);
}

/* The bytes of the well-formed character that the text begins with, or 0. */
static size_t character_bytes(const unsigned char *text, uint32_t *code)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t bytes = *text < 0x80   ? 1
		       : *text < 0xc0 ? 0
		       : *text < 0xe0 ? 2
		       : *text < 0xf0 ? 3
		       : *text < 0xf8 ? 4
				      : 0;

	if (bytes <= 1) {
		*code = *text;
		return bytes;
	}
	*code = *text & (0xffu >> (bytes + 1));
	for (size_t i = 1; i < bytes; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (text[i] & 0x3f);
	}
	return *code >= least[bytes] && *code <= 0x10ffff ? bytes : 0;
}

static bool is_allowed(uint32_t code)
{
	return (code >= 0x20 && code < 0x7f) || code == '\t' || code == '\n' ||
	       (code >= 0xa0 && code < 0xd800) || (code >= 0xe000 && code < 0xfffe) ||
	       (code >= 0x10000 && (code & 0xffff) < 0xfffe);
}

static const char *entity(uint32_t code)
{
	switch (code) {
	case '&':
		return "&amp;";
	case '<':
		return "&lt;";
	case '>':
		return "&gt;";
	case '"':
		return "&quot;";
	case '\'':
		return "&#39;";
	default:
		return NULL;
	}
}

void html_text(FILE *to, const char *text)
{
	const unsigned char *at = (const unsigned char *)text;

	while (*at) {
		uint32_t code;
		size_t bytes = character_bytes(at, &code);
		const char *name = bytes == 1 ? entity(code) : NULL;

		if (name)
			fputs(name, to);
		else if (bytes && is_allowed(code))
			fwrite(at, 1, bytes, to);
		else
			fputs("\xef\xbf\xbd", to);
		at += bytes ? bytes : 1;
	}
}

void html_row(FILE *to, const char *name, const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fputs("<tr><th scope=\"row\">", to);
	html_text(to, name);
	fputs("</th><td>", to);
	html_text(to, text);
	fputs("</td></tr>\n", to);
}

void html_data(FILE *to, const char *id, uint64_t value, const char *format, ...)
{
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fputs("<data ", to);
	if (id)
		fprintf(to, "id=\"%s\" ", id);
	fprintf(to, "value=\"%" PRIu64 "\">", value);
	html_text(to, text);
	fputs("</data>", to);
}

const char *html_bytes(char *text, uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes;
	unsigned int unit = 0;

	for (; value >= 1024 && unit < 4; unit++)
		value /= 1024;
	snprintf(text, HTML_NUMBER_BYTES,
		 value < 100 && value > floor(value) ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return text;
}
