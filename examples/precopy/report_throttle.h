/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_REPORT_THROTTLE_H
#define PRECOPY_REPORT_THROTTLE_H

#include "report.h"

/* The report's part on --throttle, --budget and --readers. */

/* The table of passes, where vCPUs are throttled. */
void report_throttle_header(struct report *report);
void report_throttle_row(struct report *report, const struct pass_row *row, const char *name);

/* Lines of the summary. Prints nothing where none of the options was given. */
void report_throttle_summary(struct report *report);

/* Fields of the JSON object. */
void report_json_throttling(const struct report *report);

#endif
