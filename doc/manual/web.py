# SPDX-License-Identifier: MIT
"""The manual as HTML: mandoc's pages, with an index and links between them."""

import html
import os
import re
import subprocess

STYLE = """body { max-width: 50em; margin: 1em auto; padding: 0 1em; font-family: sans-serif;
  line-height: 1.4; color: #222; background: #fff; }
pre, code, b { font-family: monospace; }
div.Bd-indent { margin-left: 2em; }
p.Pp + div.Bd-indent { margin-top: -0.7em; }
pre { background: #f4f4f4; padding: 0.6em; overflow-x: auto; }
table.head, table.foot { width: 100%; color: #666; }
td.head-vol { text-align: center; } td.head-rtitle, td.foot-os { text-align: right; }
a { color: #045; } dt { font-family: monospace; }
a.permalink { color: inherit; text-decoration: none; }
section { margin-bottom: 1em; } h1 { font-size: 1.2em; } h2 { font-size: 1.05em; }
"""
REFERENCE = re.compile(r"<b>([\w-]+)</b>\((\d)\)")
HEADINGS = {7: "Overview", 3: "Calls", 1: "Programs"}


def page_file(page):
    return "%s.%d.html" % (page.name, page.section)


def link_targets(pages):
    """{(name, section): file}"""
    return {(name, page.section): page_file(page)
            for page in pages for name in page.names()}


def add_links(text, targets, own):
    """References to the manual's pages become links; others stay as they are."""
    def link(match):
        file = targets.get((match.group(1), int(match.group(2))))
        if not file or file == own:
            return match.group(0)
        return '<a href="%s">%s</a>' % (file, match.group(0))
    return REFERENCE.sub(link, text)


def convert(mandoc, source, page, targets):
    output = subprocess.run([mandoc, "-Thtml", "-Ostyle=manual.css", source], check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    up = '<p><a href="index.html">libdirtylog manual</a></p>'
    output = output.replace("<body>", "<body>\n" + up, 1)
    output = re.sub(r"^&#x00A0;$", "", output, flags=re.M)
    return add_links(output, targets, page_file(page))


def index(pages, version):
    lines = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
             "<title>libdirtylog %s</title>" % version,
             '<link rel="stylesheet" href="manual.css"></head><body>',
             "<h1>libdirtylog %s</h1>" % version]
    for section, heading in HEADINGS.items():
        lines.append("<h2>%s</h2>\n<dl>" % heading)
        for page in sorted((p for p in pages if p.section == section), key=lambda p: p.name):
            names = ", ".join(page.names())
            lines.append('<dt><a href="%s">%s(%d)</a></dt><dd>%s</dd>' % (
                page_file(page), names, section, html.escape(page.fields["about"])))
        lines.append("</dl>")
    return "\n".join(lines) + "\n</body></html>\n"


def write_html(mandoc, man_directory, out, pages, version):
    os.makedirs(out, exist_ok=True)
    targets = link_targets(pages)
    for page in pages:
        source = os.path.join(man_directory, "%s.%d" % (page.name, page.section))
        with open(os.path.join(out, page_file(page)), "w", encoding="utf-8") as file:
            file.write(convert(mandoc, source, page, targets))
    with open(os.path.join(out, "index.html"), "w", encoding="utf-8") as file:
        file.write(index(pages, version))
    with open(os.path.join(out, "manual.css"), "w", encoding="utf-8") as file:
        file.write(STYLE)
