/* SPDX-License-Identifier: MIT */
/* What only the library's internal headers tell; compiled as the library is. */
#include "log.h"

bool insight_overflow_known(const struct dl_log *log);

bool insight_overflow_known(const struct dl_log *log)
{
	return log && log->reset.overflowed;
}
