// SPDX-License-Identifier: Apache-2.0
/* Asks an address again and again, by ICMP echo or by ARP, and says how long the answers took.
 *
 * usage: probe icmp|arp INTERFACE IPV4_ADDRESS COUNT INTERVAL_MS
 * Prints {"sent": N, "lost": N, "p50_us": A, "p99_us": B, "max_us": C}. Echo requests leave at their times whether or not
 * the ones before were answered, so a stall shows in every probe that fell into it; ARP has no sequence number, so
 * there the next one waits. A probe without an answer counts as one second.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/if_ether.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PROBES = 60000, LOST_NS = 1000000000, PAYLOAD_BYTES = 56 };

static struct {
	int by_arp, socket, interface;
	struct in_addr target, own;
	uint8_t mac[6];
	uint16_t identity;
} p;
static int64_t sent_at[MOST_PROBES], took[MOST_PROBES];
static int sent, answered;

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void learn_own_addresses(const char *name)
{
	struct ifreq about = { 0 };

	snprintf(about.ifr_name, sizeof about.ifr_name, "%s", name);
	if (ioctl(p.socket, SIOCGIFINDEX, &about))
		err(1, "%s", name);
	p.interface = about.ifr_ifindex;
	if (ioctl(p.socket, SIOCGIFHWADDR, &about))
		err(1, "%s", name);
	memcpy(p.mac, about.ifr_hwaddr.sa_data, sizeof p.mac);
}

static void learn_own_ipv4(const char *name)
{
	struct ifreq about = { 0 };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(about.ifr_name, sizeof about.ifr_name, "%s", name);
	if (ioctl(s, SIOCGIFADDR, &about))
		err(1, "%s", name);
	p.own = ((struct sockaddr_in *)&about.ifr_addr)->sin_addr;
	close(s);
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

static void send_echo(int number)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr = p.target };
	struct { struct icmphdr head; uint8_t payload[PAYLOAD_BYTES]; } echo = { .head.type = ICMP_ECHO };

	echo.head.un.echo.id = htons(p.identity);
	echo.head.un.echo.sequence = htons(number);
	echo.head.checksum = checksum(&echo, sizeof echo);
	sendto(p.socket, &echo, sizeof echo, 0, (struct sockaddr *)&to, sizeof to);	/* a refusal shows as lost */
}

static void send_arp(void)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = p.interface, .sll_halen = 6,
				  .sll_protocol = htons(ETH_P_ARP) };
	struct ether_arp request = { .ea_hdr = { htons(1), htons(ETH_P_IP), 6, 4, htons(ARPOP_REQUEST) } };

	memset(to.sll_addr, 0xff, 6);
	memcpy(request.arp_sha, p.mac, 6);
	memcpy(request.arp_spa, &p.own, 4);
	memcpy(request.arp_tpa, &p.target, 4);
	sendto(p.socket, &request, sizeof request, 0, (struct sockaddr *)&to, sizeof to);
}

/* Which probe these bytes answer; -1: none. */
static int answers(const uint8_t *bytes, ssize_t length)
{
	const struct ether_arp *reply = (const void *)bytes;
	const struct iphdr *ip = (const void *)bytes;
	const struct icmphdr *echo;

	if (p.by_arp)
		return length >= (ssize_t)sizeof *reply && reply->ea_hdr.ar_op == htons(ARPOP_REPLY) &&
		       !memcmp(reply->arp_spa, &p.target, 4) ? sent - 1 : -1;
	if (length < (ssize_t)sizeof *ip || length < ip->ihl * 4 + (ssize_t)sizeof *echo)
		return -1;
	echo = (const void *)(bytes + ip->ihl * 4);
	if (echo->type != ICMP_ECHOREPLY || ntohs(echo->un.echo.id) != p.identity || ip->saddr != p.target.s_addr)
		return -1;
	return ntohs(echo->un.echo.sequence);
}

static void take_answers(void)
{
	uint8_t bytes[2048];
	ssize_t length;

	while ((length = recv(p.socket, bytes, sizeof bytes, MSG_DONTWAIT)) >= 0) {
		int number = answers(bytes, length);

		if (number < 0 || number >= sent || took[number])
			continue;
		took[number] = now_ns() - sent_at[number];
		answered++;
	}
}

static void wait_until(int64_t at, int enough)
{
	for (int64_t left; answered < enough && (left = at - now_ns()) > 0;) {
		struct timespec most = { left / 1000000000, left % 1000000000 };
		struct pollfd readable = { .fd = p.socket, .events = POLLIN };

		if (ppoll(&readable, 1, &most, NULL) > 0)
			take_answers();
	}
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void report(void)
{
	for (int i = 0; i < sent; i++)
		if (!took[i])
			took[i] = LOST_NS;
	qsort(took, sent, sizeof *took, ascending);
	printf("{\"sent\": %d, \"lost\": %d, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n", sent, sent - answered,
	       took[sent / 2] / 1e3, took[sent * 99 / 100] / 1e3, took[sent - 1] / 1e3);
}

int main(int argc, char **argv)
{
	int count = argc == 6 ? atoi(argv[4]) : 0;
	int64_t interval_ns = argc == 6 ? (int64_t)(atof(argv[5]) * 1e6) : 0;

	if (count < 1 || count > MOST_PROBES || (strcmp(argv[1], "icmp") && strcmp(argv[1], "arp")))
		errx(2, "usage: probe icmp|arp INTERFACE IPV4_ADDRESS COUNT INTERVAL_MS");
	if (inet_pton(AF_INET, argv[3], &p.target) != 1)
		errx(2, "%s is no IPv4 address", argv[3]);
	p.by_arp = !strcmp(argv[1], "arp");
	p.identity = getpid();
	p.socket = p.by_arp ? socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ARP))
			    : socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
	if (p.socket < 0)
		err(1, "socket");
	learn_own_addresses(argv[2]);
	learn_own_ipv4(argv[2]);
	for (int64_t due = now_ns(); sent < count; due += interval_ns) {
		wait_until(due, MOST_PROBES + 1);
		if (p.by_arp && sent)
			wait_until(sent_at[sent - 1] + LOST_NS, sent);
		sent_at[sent] = now_ns();
		sent++;
		if (p.by_arp)
			send_arp();
		else
			send_echo(sent - 1);
	}
	wait_until(now_ns() + LOST_NS, sent);
	report();
	return 0;
}
