/* SPDX-License-Identifier: MIT */
/*
 * vhost-net of the kernel, between the queues of a guest and a tap device. It logs all that it
 * writes: the buffers of packets that it receives, and the used rings of both queues.
 */
#include "vhost_scene.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	ROUNDS = 5,
	PACKETS = 3, /* to the guest, in each round */
	PACKET_BYTES = ETH_FRAME_LEN,
	HEADER_BYTES = sizeof(struct virtio_net_hdr_mrg_rxbuf),
	/* A packet and its header fill one buffer and the first part of another. */
	BUFFERS_PER_PACKET = 2,
	TX_PAGE = 40,
	PROTOCOL = 0x88b5, /* for experiments */
};

#define FEATURES (UINT64_C(1) << VIRTIO_F_VERSION_1 | UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF)

static struct vhost_scene scene;

static struct {
	int fd;
	int socket;
	struct sockaddr_ll address;
} tap;

/* Otherwise the host sends packets of its own. */
static void switch_ipv6_off(const char *interface)
{
	char path[100];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", interface);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	assert_int_equal(write(fd, "1", 1), 1);
	close(fd);
}

static void open_tap(void)
{
	struct ifreq interface = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int header_bytes = HEADER_BYTES;

	tap.fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (tap.fd < 0)
		rig_skip("/dev/net/tun: %s", strerror(errno));
	assert_int_equal(ioctl(tap.fd, TUNSETIFF, &interface), 0);
	assert_int_equal(ioctl(tap.fd, TUNSETVNETHDRSZ, &header_bytes), 0);
	switch_ipv6_off(interface.ifr_name);
	tap.socket = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	assert_true(tap.socket >= 0);
	interface.ifr_flags = IFF_UP;
	assert_int_equal(ioctl(tap.socket, SIOCSIFFLAGS, &interface), 0);
	assert_int_equal(ioctl(tap.socket, SIOCGIFINDEX, &interface), 0);
	tap.address = (struct sockaddr_ll){
		.sll_family = AF_PACKET,
		.sll_ifindex = interface.ifr_ifindex,
		.sll_halen = ETH_ALEN,
	};
}

/* -1: the device stops. */
static void set_backend(int fd)
{
	for (unsigned int i = 0; i < VHOST_QUEUES; i++)
		vhost_call(&scene.device, VHOST_NET_SET_BACKEND,
			   &(struct vhost_vring_file){ i, fd });
}

static void open_scene(uint32_t mode, enum vhost_mapping mapping)
{
	vhost_scene_open(&scene, mode, mapping, "/dev/vhost-net", FEATURES);
	open_tap();
	set_backend(tap.fd);
}

static int close_scene(void **state)
{
	vhost_scene_close(&scene);
	if (tap.socket > 0)
		close(tap.socket);
	if (tap.fd > 0)
		close(tap.fd);
	tap.socket = tap.fd = 0;
	return rig_teardown(state);
}

static void begin_packet(uint8_t *packet)
{
	const struct ethhdr header = { .h_dest = { 2 }, .h_proto = htons(PROTOCOL) };

	memcpy(packet, &header, sizeof(header));
}

static void host_sends(void)
{
	uint8_t packet[PACKET_BYTES];

	memset(packet, vhost_scene_byte(&scene), sizeof(packet));
	begin_packet(packet);
	vhost_scene_offer(&scene, PACKETS * BUFFERS_PER_PACKET);
	for (int i = 0; i < PACKETS; i++)
		assert_int_equal(sendto(tap.socket, packet, sizeof(packet), 0,
					(const struct sockaddr *)&tap.address, sizeof(tap.address)),
				 sizeof(packet));
}

static void guest_receives(void)
{
	uint64_t received = 0, last = 0;
	uint32_t bytes;

	for (int i = 0; i < PACKETS * BUFFERS_PER_PACKET; i++) {
		last = vhost_scene_consume(&scene, VHOST_RX, &bytes);
		received += bytes;
	}
	assert_int_equal(received, PACKETS * (PACKET_BYTES + HEADER_BYTES));
	assert_int_equal(scene.slot->memory[last], vhost_scene_byte(&scene));
}

static void guest_sends(void)
{
	uint64_t offset = TX_PAGE * scene.rig->page_bytes;
	uint8_t *memory = scene.slot->memory + offset;
	uint32_t bytes;

	memset(memory, 0, HEADER_BYTES);
	memset(memory + HEADER_BYTES, vhost_scene_byte(&scene), ETH_ZLEN);
	begin_packet(memory + HEADER_BYTES);
	vhost_mark(&scene.device, offset, HEADER_BYTES + ETH_ZLEN);
	vhost_offer(&scene.device, VHOST_TX, offset, HEADER_BYTES + ETH_ZLEN, 0);
	vhost_kick(&scene.device, VHOST_TX);
	vhost_scene_consume(&scene, VHOST_TX, &bytes);
	assert_int_equal(bytes, 0);
}

static void exchange_packets(void)
{
	host_sends();
	guest_sends();
	guest_receives();
	vhost_settle(&scene.device);
}

/* The device is stopped, its log read, then the last pass. */
static void finish(bool logs)
{
	set_backend(-1);
	vhost_settle(&scene.device);
	if (logs)
		vhost_scene_sync(&scene);
	rig_finish(scene.rig);
}

/* The log begins while the device works, as in a migration. */
static void every_write_is_in_the_next_pass(uint32_t mode)
{
	open_scene(mode, VHOST_GUESTS_MAPPING);
	exchange_packets();
	vhost_log_buffers(&scene.device);
	vhost_log_rings(&scene.device);
	vhost_scene_join(&scene);
	for (int round = 0; round < ROUNDS; round++) {
		exchange_packets();
		vhost_scene_sync(&scene);
		vhost_scene_pass(&scene, 0);
	}
	exchange_packets();
	finish(true);
}

static void ring_mode_reports_all_that_vhost_net_writes(void **state)
{
	(void)state;
	every_write_is_in_the_next_pass(DL_MODE_RING);
}

static void bitmap_mode_reports_all_that_vhost_net_writes(void **state)
{
	(void)state;
	every_write_is_in_the_next_pass(DL_MODE_BITMAP);
}

enum moment {
	BEFORE_THE_TAKE,
	BEFORE_THE_HARVEST,
	BEFORE_THE_READING,
	MOMENTS,
};

/* The device may write at any moment of a pass: what the pass misses is in the next one. */
static void write_in_a_pass(enum moment moment)
{
	struct checker *checker = &scene.rig->checker;

	scene.round++;
	if (moment == BEFORE_THE_TAKE)
		exchange_packets();
	vhost_scene_sync(&scene);
	if (moment == BEFORE_THE_HARVEST)
		exchange_packets();
	assert_int_equal(dl_harvest(checker->cursor, 0, NULL), 0);
	if (moment == BEFORE_THE_READING)
		exchange_packets();
	assert_int_equal(checker_finish_pass(checker, 1), 0);
	assert_int_equal(checker_differing_pages(checker) > 0, moment != BEFORE_THE_TAKE);
	vhost_scene_sync(&scene);
	rig_pass(scene.rig, 0);
	checker_expect_equal(checker);
}

static void write_at_each_moment(uint32_t mode)
{
	open_scene(mode, VHOST_GUESTS_MAPPING);
	vhost_log_buffers(&scene.device);
	vhost_log_rings(&scene.device);
	vhost_scene_join(&scene);
	for (int write = 0; write < ROUNDS * MOMENTS; write++)
		write_in_a_pass(write % MOMENTS);
	finish(true);
}

static void ring_mode_reports_writes_at_each_moment_of_a_pass(void **state)
{
	(void)state;
	write_at_each_moment(DL_MODE_RING);
}

static void bitmap_mode_reports_writes_at_each_moment_of_a_pass(void **state)
{
	(void)state;
	write_at_each_moment(DL_MODE_BITMAP);
}

/* The proofs that the tests above can fail: a part of the log is left out. */
static void without_log_all_the_buffers_are_lost(void **state)
{
	(void)state;
	open_scene(DL_MODE_AUTO, VHOST_GUESTS_MAPPING);
	vhost_log_no_buffers(&scene.device);
	vhost_log_rings(&scene.device);
	vhost_scene_join(&scene);
	exchange_packets();
	vhost_scene_sync(&scene);
	vhost_scene_pass(&scene, VHOST_BUFFER);
	vhost_scene_mend(&scene);
	finish(true);
}

static void without_the_rings_log_the_used_rings_are_lost(void **state)
{
	(void)state;
	open_scene(DL_MODE_AUTO, VHOST_GUESTS_MAPPING);
	vhost_log_buffers(&scene.device);
	vhost_scene_join(&scene);
	exchange_packets();
	vhost_scene_sync(&scene);
	vhost_scene_pass(&scene, VHOST_USED_RING);
	vhost_scene_mend(&scene);
	finish(true);
}

/* Writes that are not taken in time stay in the log. */
static void without_the_mark_everything_is_lost(void **state)
{
	(void)state;
	open_scene(DL_MODE_AUTO, VHOST_GUESTS_MAPPING);
	vhost_log_buffers(&scene.device);
	vhost_log_rings(&scene.device);
	vhost_scene_join(&scene);
	exchange_packets();
	vhost_scene_pass(&scene, VHOST_BUFFER | VHOST_USED_RING);
	finish(true);
}

/* The kernel's stores fault like the VMM's, so no log is needed. */
static void a_watch_of_its_mapping_needs_no_log(void **state)
{
	(void)state;
	open_scene(DL_MODE_AUTO, VHOST_WATCHED_ALIAS);
	vhost_scene_join(&scene);
	for (int round = 0; round < ROUNDS; round++) {
		exchange_packets();
		vhost_scene_pass(&scene, 0);
	}
	exchange_packets();
	finish(false);
}

static void without_the_watch_everything_is_lost(void **state)
{
	(void)state;
	open_scene(DL_MODE_AUTO, VHOST_ALIAS);
	vhost_scene_join(&scene);
	exchange_packets();
	vhost_scene_pass(&scene, VHOST_BUFFER | VHOST_USED_RING);
	vhost_scene_mend(&scene);
	finish(false);
}

#define net_test(function) cmocka_unit_test_teardown(function, close_scene)

int main(void)
{
	const struct CMUnitTest tests[] = {
		net_test(ring_mode_reports_all_that_vhost_net_writes),
		net_test(bitmap_mode_reports_all_that_vhost_net_writes),
		net_test(ring_mode_reports_writes_at_each_moment_of_a_pass),
		net_test(bitmap_mode_reports_writes_at_each_moment_of_a_pass),
		net_test(without_log_all_the_buffers_are_lost),
		net_test(without_the_rings_log_the_used_rings_are_lost),
		net_test(without_the_mark_everything_is_lost),
		net_test(a_watch_of_its_mapping_needs_no_log),
		net_test(without_the_watch_everything_is_lost),
	};

	return rig_run_tests("vhost-net", tests);
}
