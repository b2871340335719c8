/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_HTML_CHART_H
#define PRECOPY_HTML_CHART_H

#include "watch.h"

#include <stdio.h>

/* Figures of the page, each an SVG with a caption. One without anything to show says so. */

/* Pages a second that the guest dirtied, and that were sent, over time. */
void html_chart_rates(FILE *to, const struct report *report, const struct timeline *timeline);

/* Bytes left after each pass. */
void html_chart_convergence(FILE *to, const struct report *report);

/* The parts of the downtime. */
void html_chart_downtime(FILE *to, const struct report *report);

/* Which parts of memory were sent more than once. */
void html_map(FILE *to, const struct watch *watch);

#endif
