/* SPDX-License-Identifier: MIT */
#include "wire.h"
#include "../clock.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define WIRE_MAGIC  UINT32_C(0x706d4c44) /* "DLmp" */
#define CANCEL_NS   (200 * NS_PER_MS)
#define REFUSAL_NS  NS_PER_S
#define MAX_ANSWERS 4 /* skipped in search of a refusal */

_Static_assert(sizeof(struct wire_header) == 24, "no padding on the wire");
_Static_assert(sizeof(struct wire_hello) == 56, "no padding on the wire");
_Static_assert(sizeof(struct wire_proof) == 48, "no padding on the wire");
_Static_assert(sizeof(struct wire_result) == 32 + WIRE_TEXT_BYTES, "no padding on the wire");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are sent in host order");

void wire_init(struct wire *wire, int fd)
{
	memset(wire, 0, sizeof(*wire));
	wire->fd = fd;
	wire->timeout_ns = WIRE_TIMEOUT_NS;
}

int wire_fail(struct wire *wire, int failure, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(wire->why, sizeof(wire->why), format, args);
	va_end(args);
	wire->failure = failure;
	return failure;
}

static int connection_lost(struct wire *wire, int failure)
{
	if (failure == -EPIPE || failure == -ECONNRESET)
		return wire_fail(wire, failure, "connection lost: the peer is gone");
	return wire_fail(wire, failure, "connection failed: %s", strerror(-failure));
}

/* Waits until the socket is readable or writable. */
static int wait_ready(struct wire *wire, short events, uint64_t deadline_ns)
{
	struct pollfd pollfd = { .fd = wire->fd, .events = events };
	uint64_t now_ns, wait_ns;
	int r;

	for (;;) {
		if (wire->cancelled && *wire->cancelled)
			return wire_fail(wire, -EINTR, "cancelled");
		now_ns = clock_ns();
		if (now_ns >= deadline_ns)
			return wire_fail(wire, -ETIMEDOUT,
					 "timed out: the peer %s nothing for %u s",
					 events & POLLIN ? "sent" : "received",
					 (unsigned)(wire->timeout_ns / NS_PER_S));
		wait_ns = deadline_ns - now_ns;
		/* A signal just before poll() would not wake it up. */
		if (wire->cancelled && wait_ns > CANCEL_NS)
			wait_ns = CANCEL_NS;
		r = poll(&pollfd, 1, (int)(wait_ns / 1000000) + 1);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return connection_lost(wire, -errno);
	}
}

/* Skips the bytes that have been sent. */
static void advance(struct iovec **part, size_t *parts, size_t bytes)
{
	while (*parts && bytes >= (*part)->iov_len) {
		bytes -= (*part)->iov_len;
		(*part)++;
		(*parts)--;
	}
	if (*parts) {
		(*part)->iov_base = (char *)(*part)->iov_base + bytes;
		(*part)->iov_len -= bytes;
	}
}

int wire_send(struct wire *wire, enum wire_type type, uint64_t offset_bytes, const void *payload,
	      size_t payload_bytes)
{
	struct wire_header header = { .magic = WIRE_MAGIC,
				      .type = type,
				      .payload_bytes = (uint32_t)payload_bytes,
				      .offset_bytes = offset_bytes };
	struct iovec parts[2] = { { &header, sizeof(header) }, { (void *)payload, payload_bytes } };
	uint64_t deadline_ns = clock_ns() + wire->timeout_ns;
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	struct iovec *part = parts;
	size_t left = 2;
	ssize_t n;
	int r;

	while (left) {
		message.msg_iov = part;
		message.msg_iovlen = left;
		n = sendmsg(wire->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			wire->sent_bytes += (uint64_t)n;
			advance(&part, &left, (size_t)n);
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			r = wait_ready(wire, POLLOUT, deadline_ns);
			if (r)
				return r;
		} else if (errno != EINTR) {
			return connection_lost(wire, -errno);
		}
	}
	return 0;
}

static int receive(struct wire *wire, void *to, size_t bytes, uint64_t deadline_ns)
{
	ssize_t n;
	int r;

	while (bytes) {
		n = recv(wire->fd, to, bytes, MSG_DONTWAIT);
		if (n > 0) {
			wire->received_bytes += (uint64_t)n;
			to = (char *)to + n;
			bytes -= (size_t)n;
		} else if (!n) {
			return wire_fail(wire, -EPIPE, "connection lost: the peer closed it");
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			r = wait_ready(wire, POLLIN, deadline_ns);
			if (r)
				return r;
		} else if (errno != EINTR) {
			return connection_lost(wire, -errno);
		}
	}
	return 0;
}

void wire_sanitize(char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

static int receive_refusal(struct wire *wire, uint32_t bytes)
{
	char text[WIRE_TEXT_BYTES];
	int r;

	if (bytes >= sizeof(text))
		return wire_fail(wire, -EPROTO, "the peer sent a refusal of %u bytes", bytes);
	r = receive(wire, text, bytes, clock_ns() + wire->timeout_ns);
	if (r)
		return r;
	text[bytes] = '\0';
	wire_sanitize(text);
	wire->refused = true;
	return wire_fail(wire, -ECONNREFUSED, "refused by the peer: %.200s", text);
}

int wire_receive_header(struct wire *wire, struct wire_header *header)
{
	int r = receive(wire, header, sizeof(*header), clock_ns() + wire->timeout_ns);

	if (r)
		return r;
	if (header->magic != WIRE_MAGIC)
		return wire_fail(wire, -EPROTO, "the peer does not speak this protocol");
	if (!header->type || header->type >= WIRE_TYPES || header->reserved)
		return wire_fail(wire, -EPROTO, "the peer sent a frame of unknown type %u",
				 header->type);
	if (header->payload_bytes > WIRE_MAX_BYTES)
		return wire_fail(wire, -EPROTO, "the peer sent a frame of %u bytes",
				 header->payload_bytes);
	if (header->type == WIRE_REFUSED)
		return receive_refusal(wire, header->payload_bytes);
	return 0;
}

int wire_receive_payload(struct wire *wire, void *payload, size_t bytes)
{
	return receive(wire, payload, bytes, clock_ns() + wire->timeout_ns);
}

int wire_expect(struct wire *wire, enum wire_type type, void *payload, size_t payload_bytes)
{
	struct wire_header header;
	int r = wire_receive_header(wire, &header);

	if (r)
		return r;
	if (header.type != type || header.payload_bytes != payload_bytes)
		return wire_fail(wire, -EPROTO,
				 "the peer sent frame %u with %u bytes, expected %u with %zu",
				 header.type, header.payload_bytes, (unsigned)type, payload_bytes);
	return wire_receive_payload(wire, payload, payload_bytes);
}

enum wire_peek wire_peek(int fd, enum wire_type type)
{
	const struct wire_header wanted = { .magic = WIRE_MAGIC, .type = type };
	const size_t fixed = offsetof(struct wire_header, payload_bytes);
	struct wire_header header;
	ssize_t n = recv(fd, &header, sizeof(header), MSG_PEEK | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? WIRE_PEEK_NOTHING
										 : WIRE_PEEK_CLOSED;
	if (!n)
		return WIRE_PEEK_CLOSED;
	if (memcmp(&header, &wanted, (size_t)n < fixed ? (size_t)n : fixed))
		return WIRE_PEEK_OTHER;
	return (size_t)n < sizeof(header) ? WIRE_PEEK_NOTHING : WIRE_PEEK_WANTED;
}

void wire_refuse(struct wire *wire, const char *why)
{
	size_t bytes = strnlen(why, WIRE_TEXT_BYTES - 1);
	struct wire saved = *wire;

	(void)wire_send(wire, WIRE_REFUSED, 0, why, bytes);
	*wire = saved; /* keep the failure that is the reason */
}

void wire_read_refusal(struct wire *wire)
{
	struct wire saved = *wire;
	struct wire_header header;
	unsigned int answers = 0;
	int r;

	if (wire->failure != -EPIPE && wire->failure != -ECONNRESET)
		return;
	/* A guest may be waiting to run on. */
	wire->timeout_ns = REFUSAL_NS;
	/* Skip answers that were still in flight, but a bounded number of them. */
	do {
		r = wire_receive_header(wire, &header);
	} while (!r && !header.payload_bytes && ++answers < MAX_ANSWERS);
	if (r != -ECONNREFUSED)
		*wire = saved;
}
