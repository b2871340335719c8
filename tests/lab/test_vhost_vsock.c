/* SPDX-License-Identifier: MIT */
/*
 * vhost-vsock of the kernel, between the queues of a guest and a socket of the host. It logs its
 * used rings, and not the buffers that it fills: see doc/sources.md.
 */
#include "vhost_scene.h"

#include <linux/virtio_config.h>
#include <linux/virtio_vsock.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum {
	ROUNDS = 5,
	GUEST_CID = 5,
	GUEST_PORT = 1000,
	BUFFERS = 8,
	DATA_BYTES = 3000, /* to the guest, in each round */
	HEADER_BYTES = sizeof(struct virtio_vsock_hdr),
	TX_PAGE = 40,
	CREDIT_BYTES = 1 << 20,
};

#define FEATURES (UINT64_C(1) << VIRTIO_F_VERSION_1)

static struct vhost_scene scene;
static int host_socket;

static void set_running(int running)
{
	vhost_call(&scene.device, VHOST_VSOCK_SET_RUNNING, &running);
}

static void open_scene(uint32_t mode, enum vhost_mapping mapping)
{
	const uint64_t cid = GUEST_CID;

	vhost_scene_open(&scene, mode, mapping, "/dev/vhost-vsock", FEATURES);
	vhost_call(&scene.device, VHOST_VSOCK_SET_GUEST_CID, &cid);
	set_running(1);
}

/* Returns the offset of the packet, whose header the caller expects. */
static uint64_t guest_receives(unsigned int operation, uint32_t *data_bytes)
{
	const struct virtio_vsock_hdr *header;
	uint64_t offset;
	uint32_t bytes;

	offset = vhost_scene_consume(&scene, VHOST_RX, &bytes);
	header = (const struct virtio_vsock_hdr *)(scene.slot->memory + offset);
	assert_int_equal(header->op, operation);
	assert_int_equal(header->dst_cid, GUEST_CID);
	assert_int_equal(header->len, bytes - HEADER_BYTES);
	*data_bytes = header->len;
	return offset;
}

/* The answer to a request for a connection. */
static void guest_accepts(uint64_t request_offset)
{
	uint64_t offset = TX_PAGE * scene.rig->page_bytes;
	struct virtio_vsock_hdr header;
	uint32_t bytes;

	memcpy(&header, scene.slot->memory + request_offset, sizeof(header));
	header.dst_cid = header.src_cid;
	header.dst_port = header.src_port;
	header.src_cid = GUEST_CID;
	header.src_port = GUEST_PORT;
	header.op = VIRTIO_VSOCK_OP_RESPONSE;
	header.buf_alloc = CREDIT_BYTES;
	header.fwd_cnt = 0;
	memcpy(scene.slot->memory + offset, &header, sizeof(header));
	vhost_mark(&scene.device, offset, sizeof(header));
	vhost_offer(&scene.device, VHOST_TX, offset, sizeof(header), 0);
	vhost_kick(&scene.device, VHOST_TX);
	vhost_scene_consume(&scene, VHOST_TX, &bytes);
	assert_int_equal(bytes, 0);
}

static void connect_to_guest(void)
{
	const struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = GUEST_CID,
		.svm_port = GUEST_PORT,
	};
	struct pollfd connected = { .events = POLLOUT };
	uint32_t data_bytes;

	host_socket = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_true(host_socket >= 0);
	assert_int_equal(connect(host_socket, (const struct sockaddr *)&address, sizeof(address)),
			 -1);
	vhost_scene_offer(&scene, BUFFERS);
	guest_accepts(guest_receives(VIRTIO_VSOCK_OP_REQUEST, &data_bytes));
	connected.fd = host_socket;
	assert_int_equal(poll(&connected, 1, -1), 1);
	assert_int_equal(connected.revents, POLLOUT);
}

static void host_sends(void)
{
	uint8_t data[DATA_BYTES];

	memset(data, vhost_scene_byte(&scene), sizeof(data));
	vhost_scene_offer(&scene, BUFFERS);
	assert_int_equal(send(host_socket, data, sizeof(data), 0), sizeof(data));
}

static void exchange_data(void)
{
	uint32_t received = 0, bytes;
	uint64_t offset;

	host_sends();
	while (received < DATA_BYTES) {
		offset = guest_receives(VIRTIO_VSOCK_OP_RW, &bytes);
		assert_int_equal(scene.slot->memory[offset + HEADER_BYTES],
				 vhost_scene_byte(&scene));
		received += bytes;
	}
	assert_int_equal(received, DATA_BYTES);
	vhost_settle(&scene.device);
}

static void begin(uint32_t mode, enum vhost_mapping mapping)
{
	open_scene(mode, mapping);
	connect_to_guest();
	exchange_data();
}

static void begin_log(void)
{
	vhost_log_buffers(&scene.device);
	vhost_log_rings(&scene.device);
	vhost_scene_join(&scene);
}

/* As doc/sources.md says: the buffers that the device has filled. */
static void mark_buffers(void)
{
	for (uint64_t page = 0; page < VHOST_PAGES; page++) {
		if (scene.written[page] & VHOST_BUFFER)
			vhost_mark(&scene.device, page * scene.rig->page_bytes, 1);
	}
}

/* The device is stopped, then the last pass. */
static void finish(void)
{
	set_running(0);
	vhost_settle(&scene.device);
	vhost_scene_sync(&scene);
	rig_finish(scene.rig);
}

static void the_buffers_are_not_logged(uint32_t mode)
{
	begin(mode, VHOST_GUESTS_MAPPING);
	begin_log();
	for (int round = 0; round < ROUNDS; round++) {
		exchange_data();
		vhost_scene_sync(&scene);
		/* If this fails because they are in the pass, the kernel was mended. */
		vhost_scene_pass(&scene, VHOST_BUFFER);
		vhost_scene_mend(&scene);
	}
	finish();
}

static void ring_mode_misses_the_buffers_of_vhost_vsock(void **state)
{
	(void)state;
	the_buffers_are_not_logged(DL_MODE_RING);
}

static void bitmap_mode_misses_the_buffers_of_vhost_vsock(void **state)
{
	(void)state;
	the_buffers_are_not_logged(DL_MODE_BITMAP);
}

static void with_marked_buffers_nothing_is_lost(void **state)
{
	(void)state;
	begin(DL_MODE_AUTO, VHOST_GUESTS_MAPPING);
	begin_log();
	for (int round = 0; round < ROUNDS; round++) {
		exchange_data();
		mark_buffers();
		vhost_scene_sync(&scene);
		vhost_scene_pass(&scene, 0);
	}
	exchange_data();
	mark_buffers();
	finish();
}

static void without_a_log_everything_is_lost(void **state)
{
	(void)state;
	begin(DL_MODE_AUTO, VHOST_ALIAS);
	vhost_scene_join(&scene);
	exchange_data();
	vhost_scene_sync(&scene);
	vhost_scene_pass(&scene, VHOST_BUFFER | VHOST_USED_RING);
	vhost_scene_mend(&scene);
	finish();
}

/* The kernel's stores fault like the VMM's: buffers and used rings, without a log. */
static void a_watch_of_its_mapping_finds_the_buffers(void **state)
{
	(void)state;
	begin(DL_MODE_AUTO, VHOST_WATCHED_ALIAS);
	vhost_scene_join(&scene);
	for (int round = 0; round < ROUNDS; round++) {
		exchange_data();
		vhost_scene_pass(&scene, 0);
	}
	exchange_data();
	finish();
}

static int close_scene(void **state)
{
	vhost_scene_close(&scene);
	if (host_socket > 0)
		close(host_socket);
	host_socket = 0;
	return rig_teardown(state);
}

#define vsock_test(function) cmocka_unit_test_teardown(function, close_scene)

int main(void)
{
	const struct CMUnitTest tests[] = {
		vsock_test(ring_mode_misses_the_buffers_of_vhost_vsock),
		vsock_test(bitmap_mode_misses_the_buffers_of_vhost_vsock),
		vsock_test(with_marked_buffers_nothing_is_lost),
		vsock_test(without_a_log_everything_is_lost),
		vsock_test(a_watch_of_its_mapping_finds_the_buffers),
	};

	return rig_run_tests("vhost-vsock", tests);
}
