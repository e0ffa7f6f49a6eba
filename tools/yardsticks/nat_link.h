// SPDX-License-Identifier: Apache-2.0
/* The raw NAT loop's link: a TAP with offloads in another namespace, and the headers of what is written to it. */
#ifndef NAT_LINK_H
#define NAT_LINK_H

#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct __attribute__((packed)) frame {
	struct virtio_net_hdr_v1 vnet;
	struct ethhdr ethernet;
	struct iphdr ip;
	union {
		struct tcphdr tcp;
		struct udphdr udp;
	};
};

static uint32_t container;	/* its IPv4 address, network order */
static uint8_t container_mac[ETH_ALEN];
static const uint8_t gateway_mac[ETH_ALEN] = { 2, 0, 0, 0, 0, 1 };

static uint32_t add_words(const void *bytes, int length, uint32_t sum)
{
	const uint16_t *word = bytes;

	while ((length -= 2) >= 0)
		sum += *word++;
	return sum;
}

static uint16_t fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Everything up to the transport header, whose checksum the container's side finishes. */
static void dress(struct frame *f, uint32_t from, uint8_t protocol, int l4_bytes)
{
	f->vnet = (struct virtio_net_hdr_v1){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = ETH_HLEN + sizeof f->ip,
					      .csum_offset = protocol == IPPROTO_TCP ? 16 : 6 };
	memcpy(f->ethernet.h_dest, container_mac, ETH_ALEN);
	memcpy(f->ethernet.h_source, gateway_mac, ETH_ALEN);
	f->ethernet.h_proto = htons(ETH_P_IP);
	f->ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = protocol, .frag_off = htons(IP_DF),
				.tot_len = htons(sizeof f->ip + l4_bytes), .saddr = from, .daddr = container };
	f->ip.check = ~fold(add_words(&f->ip, sizeof f->ip, 0));
}

static uint16_t pseudo_header(const struct frame *f, int l4_bytes)
{
	return fold(add_words(&f->ip.saddr, 8, htons(f->ip.protocol) + htons(l4_bytes)));
}

/* eth0 in that namespace, down; leaves this process in its own. Returns the descriptor. */
static int open_tap(const char *netns_file)
{
	struct ifreq wanted = { .ifr_name = "eth0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), there = open(netns_file, O_RDONLY | O_CLOEXEC);
	int header_bytes = sizeof(struct virtio_net_hdr_v1), little_endian = 1, tap;

	if (home < 0 || there < 0 || setns(there, CLONE_NEWNET))
		err(1, "%s", netns_file);
	tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (tap < 0 || ioctl(tap, TUNSETIFF, &wanted) || ioctl(tap, TUNSETVNETHDRSZ, &header_bytes))
		err(1, "/dev/net/tun");
	ioctl(tap, TUNSETVNETLE, &little_endian);
	if (ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) || ioctl(tap, SIOCGIFHWADDR, &wanted))
		err(1, "TUNSETOFFLOAD");
	memcpy(container_mac, wanted.ifr_hwaddr.sa_data, ETH_ALEN);
	if (setns(home, CLONE_NEWNET))
		err(1, "setns");
	close(there);
	close(home);
	return tap;
}

#endif
