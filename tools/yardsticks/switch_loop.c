// SPDX-License-Identifier: Apache-2.0
/* The raw loop: the least that any one-threaded switch in userspace must do, and so the mark vswitch is measured against.
 *
 * One TAP in each of two network namespaces, vnet headers and offloads on; whatever comes in at one goes out at the
 * other, header and unfinished checksum included. One read and one write per frame, one epoll_wait per wake-up: no
 * table, no check, no counter. A frame that the other side doesn't take is dropped.
 *
 * usage: switch_loop NETNS_FILE NETNS_FILE
 * Makes eth0 (down, without address) in both, says "ready" on stdout, runs until killed.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

enum {
	PORTS = 2,
	BURST = 64,			/* frames taken from one port before the other has its turn */
	VNET_HEADER_BYTES = 12,
	FRAME_ROOM = 12 + 18 + 65536,	/* vnet header, Ethernet header with one tag, the largest super-frame */
};

static void take_offloads(int tap)
{
	const unsigned tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6, udp = TUN_F_USO4 | TUN_F_USO6;
	int header_bytes = VNET_HEADER_BYTES, little_endian = 1;

	if (ioctl(tap, TUNSETVNETHDRSZ, &header_bytes))
		err(1, "TUNSETVNETHDRSZ");
	ioctl(tap, TUNSETVNETLE, &little_endian);
	if (ioctl(tap, TUNSETOFFLOAD, tcp | udp) && ioctl(tap, TUNSETOFFLOAD, tcp))	/* UDP: Linux 6.2 */
		err(1, "TUNSETOFFLOAD");
}

static int open_tap_in(const char *netns_file)
{
	struct ifreq wanted = { .ifr_name = "eth0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int there = open(netns_file, O_RDONLY | O_CLOEXEC), tap;

	if (there < 0 || setns(there, CLONE_NEWNET))
		err(1, "%s", netns_file);
	close(there);
	tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (tap < 0 || ioctl(tap, TUNSETIFF, &wanted))
		err(1, "/dev/net/tun");
	take_offloads(tap);
	return tap;
}

static void relay(int from, int to)
{
	static char frame[FRAME_ROOM];

	for (int taken = 0; taken < BURST; taken++) {
		ssize_t length = read(from, frame, sizeof frame);

		if (length <= 0)
			return;
		if (write(to, frame, length) < 0)
			continue;	/* dropped: the interface there is down or full */
	}
}

int main(int argc, char **argv)
{
	int port[PORTS], poller = epoll_create1(EPOLL_CLOEXEC);

	if (argc != 1 + PORTS)
		errx(2, "usage: switch_loop NETNS_FILE NETNS_FILE");
	for (unsigned i = 0; i < PORTS; i++) {
		struct epoll_event interest = { .events = EPOLLIN, .data.u32 = i };

		port[i] = open_tap_in(argv[1 + i]);
		if (epoll_ctl(poller, EPOLL_CTL_ADD, port[i], &interest))
			err(1, "epoll_ctl");
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct epoll_event ready[PORTS];
		int count = epoll_wait(poller, ready, PORTS, -1);

		if (count < 0 && errno != EINTR)
			err(1, "epoll_wait");
		for (int i = 0; i < count; i++)
			relay(port[ready[i].data.u32], port[!ready[i].data.u32]);
	}
}
