/* SPDX-License-Identifier: MIT */
#ifndef ABI_SOURCES_H
#define ABI_SOURCES_H

/* The programs of doc/sources.md, which is compiled as it stands. */

#include <dirtylog/dirtylog.h>

#include <linux/vhost.h>
#include <stdint.h>

struct words {
	uint64_t *at;
	uint64_t n;
};

int vhost_start_log(int vhost_fd, uint64_t features, const struct words *words);
int vhost_log_ring(int vhost_fd, struct vhost_vring_addr addr, uint64_t used_gpa);
int vhost_sync(struct dl_log *log, uint32_t order, const struct words *words);
int vfio_user_sync(struct dl_log *log, uint64_t gpa, uint64_t bytes, uint64_t page_bytes,
		   const struct words *words);
int type1_log(int container_fd, uint32_t flag);
int type1_start_log(int container_fd);
int type1_sync(struct dl_log *log, int container_fd, uint64_t iova, uint64_t gpa, uint64_t bytes,
	       uint64_t page_bytes, const struct words *words);

#endif
