/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_DEVICE_MESSAGE_H
#define PRECOPY_DEVICE_MESSAGE_H

#include <stdint.h>

/*
 * The protocol of --device-process, over a pair of SOCK_SEQPACKET sockets. Each message is answered
 * by one of the same type, or by FAILED. In brackets: the message of vhost-user that it stands for.
 *
 *	MEMORY    with the file of guest memory: where the device's pages are [SET_MEM_TABLE]
 *	START     write [SET_VRING_KICK]
 *	LOG       with the file of the log: from the answer on every write is logged
 *	          [SET_LOG_BASE; SET_FEATURES with VHOST_F_LOG_ALL; SET_VRING_ADDR]
 *	LOG_OFF   [SET_FEATURES without VHOST_F_LOG_ALL]
 *	STOP      after the answer the device writes no more [GET_VRING_BASE]
 *
 * A closed connection ends the device.
 */
enum device_message_type {
	DEVICE_MEMORY = 1,
	DEVICE_START,
	DEVICE_LOG,
	DEVICE_LOG_OFF,
	DEVICE_STOP,
	DEVICE_FAILED,
	DEVICE_MESSAGES
};

struct device_message {
	uint32_t type;
	uint32_t page_bytes;   /* MEMORY */
	uint64_t gpa;	       /* MEMORY: of the device's pages */
	uint64_t offset_bytes; /* MEMORY: the same in the file */
	uint64_t bytes;	       /* MEMORY: of the pages; LOG: of the file */
	uint64_t writes;       /* answers: since the guest was created */
	char why[160];	       /* FAILED */
};

/* vhost's format: one bit for 4 KiB of memory, from guest physical address 0 on, in bytes. */
enum { DEVICE_LOG_PAGE_BYTES = 4096 };

#endif
