// SPDX-License-Identifier: Apache-2.0
/* Sends small UDP datagrams as fast as one core can, for udp_sink to count.
 *
 * usage: udp_blast IPV4_ADDRESS PORT SECONDS PAYLOAD_BYTES
 * Prints {"sent": N}. Whoever can't keep up drops: this end never waits for anybody.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, LARGEST_PAYLOAD = 1472 };

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int connected_socket(const char *address, const char *l4_port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(l4_port)) };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		errx(2, "%s is no IPv4 address", address);
	if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to))
		err(1, "%s", address);
	return s;
}

int main(int argc, char **argv)
{
	static char payload[LARGEST_PAYLOAD];
	static struct mmsghdr batch[BATCH];
	struct iovec part = { .iov_base = payload };
	unsigned long long sent = 0;
	double end;
	int s;

	if (argc != 5)
		errx(2, "usage: udp_blast IPV4_ADDRESS PORT SECONDS PAYLOAD_BYTES");
	part.iov_len = atoi(argv[4]);
	if (part.iov_len > sizeof payload)
		errx(2, "a payload has at most %d bytes", LARGEST_PAYLOAD);
	for (int i = 0; i < BATCH; i++)
		batch[i].msg_hdr = (struct msghdr){ .msg_iov = &part, .msg_iovlen = 1 };
	s = connected_socket(argv[1], argv[2]);
	end = now_s() + atof(argv[3]);
	while (now_s() < end) {
		int count = sendmmsg(s, batch, BATCH, 0);

		if (count > 0)
			sent += count;
		else if (errno != ECONNREFUSED && errno != ENOBUFS && errno != EAGAIN)
			err(1, "sendmmsg");
	}
	printf("{\"sent\": %llu}\n", sent);
	return 0;
}
