/* SPDX-License-Identifier: MIT */
#ifndef DLI_SESSION_H
#define DLI_SESSION_H

#include "log.h"

/* dl_log_stop(), under log->reading and log->lock. */
int dli_stop_logging(struct dl_log *log);

#endif
