// SPDX-License-Identifier: Apache-2.0
/* A container that behaves badly: sends frames of one kind as fast as one core can, with its own MAC and address.
 *
 * usage: flood KIND INTERFACE [PEER_MAC PEER_IPV4]
 *   broadcast   64-byte frames (UDP) to everybody
 *   unicast     64-byte frames (UDP) to the peer
 *   arp         ARP requests for one address of its /16 after another
 *   dhcp        DHCP DISCOVERs, each with another transaction id
 * Says "ready", runs until killed (SIGTERM), then prints {"sent": N}. 64 bytes include the frame check sequence.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/if_ether.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { BATCH = 32, FRAME_ROOM = 342, SMALLEST_FRAME = 60, DISCARD_PORT = 9, DHCP_CLIENT = 68, DHCP_SERVER = 67 };

struct __attribute__((packed)) datagram {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
	uint8_t payload[FRAME_ROOM - 42];
};

static struct { uint8_t mac[6], peer_mac[6]; struct in_addr address, peer; } who;
static uint8_t frames[BATCH][FRAME_ROOM];
static volatile sig_atomic_t stopping;

static void stop(int number) { stopping = number; }

static int packet_socket(const char *name)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET };
	struct ifreq about = { 0 };
	int s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), inet = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(about.ifr_name, sizeof about.ifr_name, "%s", name);
	if (s < 0 || ioctl(s, SIOCGIFINDEX, &about))
		err(1, "%s", name);
	at.sll_ifindex = about.ifr_ifindex;
	if (bind(s, (struct sockaddr *)&at, sizeof at) || ioctl(s, SIOCGIFHWADDR, &about))
		err(1, "%s", name);
	memcpy(who.mac, about.ifr_hwaddr.sa_data, 6);
	if (ioctl(inet, SIOCGIFADDR, &about))
		err(1, "%s", name);
	who.address = ((struct sockaddr_in *)&about.ifr_addr)->sin_addr;
	return s;
}

static uint16_t checksum(const void *bytes, size_t length)
{
	const uint16_t *word = bytes;
	uint32_t sum = 0;

	for (size_t i = 0; i < length / 2; i++)
		sum += word[i];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Fills in everything but the payload; returns the frame's length. */
static size_t emit_udp(uint8_t *frame, const uint8_t *to_mac, struct in_addr from, struct in_addr to,
		       uint16_t sport, uint16_t dport, size_t payload)
{
	struct datagram *d = (struct datagram *)frame;

	memcpy(d->ethernet.h_dest, to_mac, 6);
	memcpy(d->ethernet.h_source, who.mac, 6);
	d->ethernet.h_proto = htons(ETH_P_IP);
	d->ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .tot_len = htons(28 + payload),
				.saddr = from.s_addr, .daddr = to.s_addr };
	d->ip.check = checksum(&d->ip, sizeof d->ip);
	d->udp = (struct udphdr){ .source = htons(sport), .dest = htons(dport), .len = htons(8 + payload) };
	return 42 + payload;
}

static const uint8_t everybody[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

static size_t emit_broadcast(uint8_t *frame, uint32_t number)
{
	(void)number;
	return emit_udp(frame, everybody, who.address, (struct in_addr){ INADDR_BROADCAST }, DISCARD_PORT, DISCARD_PORT,
			SMALLEST_FRAME - 42);
}

static size_t emit_unicast(uint8_t *frame, uint32_t number)
{
	(void)number;
	return emit_udp(frame, who.peer_mac, who.address, who.peer, DISCARD_PORT, DISCARD_PORT, SMALLEST_FRAME - 42);
}

static size_t emit_arp(uint8_t *frame, uint32_t number)
{
	struct ethhdr *ethernet = (struct ethhdr *)frame;
	struct ether_arp *request = (struct ether_arp *)(ethernet + 1);
	struct in_addr target = { (who.address.s_addr & htonl(0xffff0000)) | htonl(number & 0xffff) };

	memcpy(ethernet->h_dest, everybody, 6);
	memcpy(ethernet->h_source, who.mac, 6);
	ethernet->h_proto = htons(ETH_P_ARP);
	request->ea_hdr = (struct arphdr){ htons(1), htons(ETH_P_IP), 6, 4, htons(ARPOP_REQUEST) };
	memcpy(request->arp_sha, who.mac, 6);
	memcpy(request->arp_spa, &who.address, 4);
	memcpy(request->arp_tpa, &target, 4);
	return SMALLEST_FRAME;
}

static size_t emit_dhcp(uint8_t *frame, uint32_t number)
{
	static const uint8_t cookie_and_options[] = { 0x63, 0x82, 0x53, 0x63, 53, 1, 1 /* DISCOVER */, 55, 2, 1, 3, 255 };
	uint8_t *message = ((struct datagram *)frame)->payload;
	const uint32_t xid = htonl(number);

	message[0] = 1;		/* BOOTREQUEST, Ethernet, 6-byte address: RFC 2131 figure 1 */
	message[1] = 1;
	message[2] = 6;
	memcpy(message + 4, &xid, 4);
	memcpy(message + 28, who.mac, 6);
	memcpy(message + 236, cookie_and_options, sizeof cookie_and_options);
	return emit_udp(frame, everybody, (struct in_addr){ 0 }, (struct in_addr){ INADDR_BROADCAST }, DHCP_CLIENT,
			DHCP_SERVER, FRAME_ROOM - 42);
}

static const struct { const char *name; size_t (*emit)(uint8_t *, uint32_t); } kinds[] = {
	{ "broadcast", emit_broadcast }, { "unicast", emit_unicast }, { "arp", emit_arp }, { "dhcp", emit_dhcp },
};

static void run(int s, size_t (*emit)(uint8_t *, uint32_t))
{
	static struct mmsghdr batch[BATCH];
	static struct iovec part[BATCH];
	unsigned long long sent = 0;

	for (uint32_t number = 0; !stopping;) {
		int count;

		for (int i = 0; i < BATCH; i++) {
			part[i] = (struct iovec){ .iov_base = frames[i], .iov_len = emit(frames[i], number++) };
			batch[i].msg_hdr = (struct msghdr){ .msg_iov = &part[i], .msg_iovlen = 1 };
		}
		count = sendmmsg(s, batch, BATCH, 0);
		if (count > 0)
			sent += count;
		else if (errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
			err(1, "sendmmsg");
	}
	printf("{\"sent\": %llu}\n", sent);
}

int main(int argc, char **argv)
{
	size_t chosen = 0;

	if (argc == 5 && inet_pton(AF_INET, argv[4], &who.peer) == 1)
		argc -= sscanf(argv[3], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &who.peer_mac[0], &who.peer_mac[1], &who.peer_mac[2],
			       &who.peer_mac[3], &who.peer_mac[4], &who.peer_mac[5]) == 6 ? 2 : 0;
	while (argc == 3 && chosen < sizeof kinds / sizeof *kinds && strcmp(argv[1], kinds[chosen].name))
		chosen++;
	if (argc != 3 || chosen == sizeof kinds / sizeof *kinds)
		errx(2, "usage: flood broadcast|unicast|arp|dhcp INTERFACE [PEER_MAC PEER_IPV4]");
	signal(SIGTERM, stop);
	int s = packet_socket(argv[2]);

	puts("ready");
	fflush(stdout);
	run(s, kinds[chosen].emit);
	return 0;
}
