/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_REPORT_JSON_H
#define PRECOPY_REPORT_JSON_H

#include "report.h"

/* Prints the report as one JSON object on stdout. */
void report_json(const struct report *report, int status);

/* An error of before there is a report. */
void report_json_early(const char *error, int status);

#endif
