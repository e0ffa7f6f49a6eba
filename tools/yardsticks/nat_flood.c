// SPDX-License-Identifier: Apache-2.0
/* A container that wears out the way out: as many packets of one kind as one core can send.
 *
 * usage: nat_flood syn|new-udp|small FIRST_IPV4_ADDRESS ADDRESSES
 *   syn       SYNs, each from another port, to addresses where nobody answers
 *   new-udp   datagrams, each from another port to another port: a new mapping each
 *   small     64-byte frames (UDP) over one and the same flow
 * Says "ready", runs until killed (SIGTERM), then prints {"sent": N}. Needs CAP_NET_RAW.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 32, PAYLOAD_BYTES = 18, FIRST_PORT = 1024, PORTS = 64000, DISCARD_PORT = 9 };

struct pseudo { uint32_t from, to; uint8_t zero, protocol; uint16_t length; };

static union segment { struct tcphdr tcp; struct udphdr udp; uint8_t bytes[sizeof(struct udphdr) + PAYLOAD_BYTES]; }
	segments[BATCH];
static volatile sig_atomic_t stopping;
static uint32_t own;

static void stop(int number) { stopping = number; }

static uint32_t add_words(const void *bytes, size_t length)
{
	const uint16_t *word = bytes;
	uint32_t sum = 0;

	for (size_t i = 0; i < length / 2; i++)
		sum += word[i];
	return sum;
}

static uint16_t checksum(const union segment *s, uint32_t to, uint8_t protocol, size_t length)
{
	const struct pseudo head = { own, to, 0, protocol, htons(length) };
	uint32_t sum = add_words(&head, sizeof head) + add_words(s, length);

	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static size_t emit_syn(union segment *s, uint32_t to, uint32_t number)
{
	s->tcp = (struct tcphdr){ .source = htons(FIRST_PORT + number % PORTS), .dest = htons(80), .seq = htonl(number),
				  .doff = 5, .syn = 1, .window = htons(64240) };
	s->tcp.check = checksum(s, to, IPPROTO_TCP, sizeof s->tcp);
	return sizeof s->tcp;
}

static size_t emit_udp(union segment *s, uint32_t to, uint16_t sport, uint16_t dport)
{
	s->udp = (struct udphdr){ .source = htons(sport), .dest = htons(dport), .len = htons(sizeof s->bytes) };
	s->udp.check = checksum(s, to, IPPROTO_UDP, sizeof s->bytes);
	return sizeof s->bytes;
}

static size_t emit_new_udp(union segment *s, uint32_t to, uint32_t number)
{
	return emit_udp(s, to, FIRST_PORT + number % PORTS, FIRST_PORT + number * 7 % PORTS);
}

static size_t emit_small(union segment *s, uint32_t to, uint32_t number)
{
	(void)number;
	return emit_udp(s, to, DISCARD_PORT, DISCARD_PORT);
}

static const struct {
	const char *name;
	int protocol, addresses_differ;
	size_t (*emit)(union segment *, uint32_t to, uint32_t number);
} kinds[] = {
	{ "syn", IPPROTO_TCP, 1, emit_syn },
	{ "new-udp", IPPROTO_UDP, 1, emit_new_udp },
	{ "small", IPPROTO_UDP, 0, emit_small },
};

/* The address that packets to there leave from. */
static uint32_t own_address(uint32_t to)
{
	struct sockaddr_in there = { .sin_family = AF_INET, .sin_port = htons(DISCARD_PORT), .sin_addr.s_addr = to }, here;
	socklen_t size = sizeof here;
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (connect(s, (struct sockaddr *)&there, sizeof there) || getsockname(s, (struct sockaddr *)&here, &size))
		err(1, "no route");
	return here.sin_addr.s_addr;
}

int main(int argc, char **argv)
{
	static struct sockaddr_in to[BATCH];
	static struct mmsghdr batch[BATCH];
	static struct iovec part[BATCH];
	unsigned long long sent = 0;
	struct in_addr first;
	size_t kind = 0;
	int s;

	while (argc == 4 && kind < sizeof kinds / sizeof *kinds && strcmp(argv[1], kinds[kind].name))
		kind++;
	if (argc != 4 || kind == sizeof kinds / sizeof *kinds || inet_pton(AF_INET, argv[2], &first) != 1 || atoi(argv[3]) < 1)
		errx(2, "usage: nat_flood syn|new-udp|small FIRST_IPV4_ADDRESS ADDRESSES");
	own = own_address(first.s_addr);
	s = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, kinds[kind].protocol);
	if (s < 0)
		err(1, "socket");
	signal(SIGTERM, stop);
	puts("ready");
	fflush(stdout);
	for (uint32_t number = 0; !stopping;) {
		int count;

		for (int i = 0; i < BATCH; i++, number++) {
			uint32_t step = kinds[kind].addresses_differ ? number % atoi(argv[3]) : 0;

			to[i] = (struct sockaddr_in){ .sin_family = AF_INET,
						      .sin_addr.s_addr = htonl(ntohl(first.s_addr) + step) };
			part[i].iov_base = &segments[i];
			part[i].iov_len = kinds[kind].emit(&segments[i], to[i].sin_addr.s_addr, number);
			batch[i].msg_hdr = (struct msghdr){ .msg_iov = &part[i], .msg_iovlen = 1, .msg_name = &to[i],
							    .msg_namelen = sizeof to[i] };
		}
		count = sendmmsg(s, batch, BATCH, 0);
		if (count > 0)
			sent += count;
		else if (errno != ENOBUFS && errno != EAGAIN && errno != EINTR && errno != EHOSTUNREACH && errno != EPERM)
			err(1, "sendmmsg");
	}
	printf("{\"sent\": %llu}\n", sent);
	return 0;
}
