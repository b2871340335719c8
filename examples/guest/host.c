/* SPDX-License-Identifier: MIT */
#include "host.h"

#include <stdio.h>
#include <string.h>

int host_open(struct host *host, const struct machine_kind *kind, const struct layout *layout,
	      bool guest_user)
{
	int r = machine_open(&host->machine, kind, layout, guest_user);

	host->open = !r;
	return r;
}

int host_open_log(struct host *host, const struct dl_options *wanted, char *why, size_t why_bytes)
{
	struct dl_options options = *wanted;
	int r;

	options.os = host->machine.os;
	r = dl_log_open(host->machine.vm_fd, &options, &host->log, host->reason,
			sizeof(host->reason));
	if (r) {
		snprintf(why, why_bytes, "cannot open the dirty log: %.280s",
			 *host->reason ? host->reason : strerror(-r));
		return r;
	}
	host->config.size = sizeof(host->config);
	r = dl_log_config(host->log, &host->config);
	if (r)
		snprintf(why, why_bytes, "dl_log_config: %s", strerror(-r));
	return r;
}

void host_close(struct host *host)
{
	if (!host->open)
		return;
	/* Before the VM is closed. */
	dl_log_close(host->log);
	machine_close(&host->machine);
	host->log = NULL;
	host->open = false;
}
