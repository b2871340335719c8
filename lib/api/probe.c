/* SPDX-License-Identifier: MIT */
/* dl_probe(), and the check of options that it shares with dl_log_open(). */

#include "api/abi.h"
#include "api/options.h"
#include "kvm/caps.h"

#include <stdio.h>

#define OPTIONS_FIRST_BYTES sizeof(struct dl_options)

static int check_options(const struct dl_options *o, char *why, size_t why_bytes)
{
	if (o->flags || o->reserved) {
		dli_say(why, why_bytes, "the options have flags that this release does not know");
		return -EINVAL;
	}
	if (o->mode > DL_MODE_BITMAP || o->backup > DL_BACKUP_REQUIRED) {
		dli_say(why, why_bytes, "the options have an unknown mode or backup");
		return -EINVAL;
	}
	if (o->ring_entries & (o->ring_entries - 1)) {
		dli_say(why, why_bytes, "%u ring entries are not a power of two", o->ring_entries);
		return -EINVAL;
	}
	if (o->os && !dli_os_valid(o->os)) {
		dli_say(why, why_bytes, "the table of system calls does not fit this release");
		return -EINVAL;
	}
	return 0;
}

int dli_options_read(const struct dl_options *from, struct dl_options *options, char *why,
		     size_t why_bytes)
{
	int r;

	dli_say(why, why_bytes, "%s", "");
	memset(options, 0, sizeof(*options));
	if (!from)
		return 0;
	r = dli_abi_read(options, sizeof(*options), OPTIONS_FIRST_BYTES, from);
	if (r) {
		dli_say(why, why_bytes,
			r == -E2BIG ? "the options have fields that this release does not know"
				    : "the options' size is smaller than the first release's");
		return r;
	}
	return check_options(options, why, why_bytes);
}

int dl_probe(int fd, const struct dl_options *options, struct dl_config *would_be, char *why,
	     size_t why_bytes)
{
	struct dl_options o;
	struct dli_caps caps;
	struct dl_config config;
	int r = dli_options_read(options, &o, why, why_bytes);

	if (r)
		return r;
	if (would_be && would_be->size < sizeof(*would_be)) {
		dli_say(why, why_bytes, "the config's size is smaller than the first release's");
		return -EINVAL;
	}
	r = dli_caps_probe(dli_os_or_system(o.os), fd, &caps);
	if (r) {
		dli_caps_say_failure(why, why_bytes, fd, "is neither /dev/kvm nor a VM", r);
		return r;
	}
	r = dli_caps_choose(&caps, &o, why, why_bytes);
	if (r || !would_be)
		return r;
	dli_caps_config(&caps, &config);
	return dli_abi_write(would_be, sizeof(config), &config, sizeof(config));
}
