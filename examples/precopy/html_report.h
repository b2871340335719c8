/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_HTML_REPORT_H
#define PRECOPY_HTML_REPORT_H

#include "watch.h"

/*
 * The page of --report: all that is known of the migration, in one file without scripts. Returns
 * the text, which the caller frees, or NULL.
 */
char *html_report_make(const struct report *report, const struct watch *watch, size_t *bytes);

#endif
