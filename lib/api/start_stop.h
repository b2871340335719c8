/* SPDX-License-Identifier: MIT */
#ifndef DLI_START_STOP_H
#define DLI_START_STOP_H

#include "log.h"

/* The work of dl_log_stop(). Called under log->reading and log->lock. */
int dli_stop_logging(struct dl_log *log);

#endif
