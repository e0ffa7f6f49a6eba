// SPDX-License-Identifier: Apache-2.0
/* UDP from outside to a container that asked for it: the receiver sends one datagram, the server then sends as fast as
 * one core can to wherever that came from.
 *
 * usage: udp_pull serve IPV4_ADDRESS PORT SECONDS PAYLOAD_BYTES       says "ready"; one client, then the end
 *        udp_pull ask IPV4_ADDRESS PORT WARM_UP_SECONDS WINDOW_SECONDS
 * The client counts what arrives in a window that opens WARM_UP_SECONDS after the first datagram, and prints
 * {"received": N, "seconds": T}. Neither end waits for the other: what can't be carried is dropped.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum {
	BATCH = 64,
	LARGEST_PAYLOAD = 1472,
	SILENCE_SECONDS = 2,
	MOST_ASKED = 3,
	QUEUE_BYTES = 8 << 20,	/* so that a scheduler's pause doesn't count against the translator */
};

static char payload[BATCH][LARGEST_PAYLOAD];
static struct mmsghdr batch[BATCH];
static struct iovec part[BATCH];

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void prepare(size_t bytes)
{
	for (int i = 0; i < BATCH; i++) {
		part[i] = (struct iovec){ .iov_base = payload[i], .iov_len = bytes };
		batch[i].msg_hdr = (struct msghdr){ .msg_iov = &part[i], .msg_iovlen = 1 };
	}
}

static void serve(int s, const char *address, const char *l4_port, double seconds, size_t bytes)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(l4_port)) };
	socklen_t size = sizeof at;
	double end;

	if (inet_pton(AF_INET, address, &at.sin_addr) != 1 || bind(s, (struct sockaddr *)&at, sizeof at))
		err(1, "%s port %s", address, l4_port);
	puts("ready");
	fflush(stdout);
	if (recvfrom(s, payload[0], 1, 0, (struct sockaddr *)&at, &size) < 0 || connect(s, (struct sockaddr *)&at, size))
		err(1, "no client");
	prepare(bytes);
	for (end = now_s() + seconds; now_s() < end;)
		if (sendmmsg(s, batch, BATCH, 0) < 0 && errno != ECONNREFUSED && errno != ENOBUFS && errno != EAGAIN)
			err(1, "sendmmsg");
}

static void ask(int s, const char *address, const char *l4_port, double warm_up, double window)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(l4_port)) };
	struct timeval silence = { .tv_sec = SILENCE_SECONDS };
	unsigned long long received = 0;
	double opens = 0, now = 0;
	int room = QUEUE_BYTES, count, asked = 0;

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1 || connect(s, (struct sockaddr *)&to, sizeof to))
		err(1, "%s", address);
	if (setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room))
		err(1, "SO_RCVBUFFORCE");
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
	prepare(64);		/* longer datagrams are cut: only their number matters */
	do {
		if (send(s, "x", 1, 0) != 1)
			err(1, "send");
		count = recvmmsg(s, batch, BATCH, MSG_WAITFORONE, NULL);
	} while (count <= 0 && ++asked < MOST_ASKED);
	for (; count > 0; count = recvmmsg(s, batch, BATCH, MSG_WAITFORONE, NULL)) {
		now = now_s();
		if (!opens)
			opens = now + warm_up;
		if (now >= opens)
			received += count;
		if (now >= opens + window)
			break;
	}
	if (count <= 0)
		now = opens + window;	/* silence came first: it counts */
	printf("{\"received\": %llu, \"seconds\": %.6f}\n", received, now - opens);
}

int main(int argc, char **argv)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (argc == 6 && !strcmp(argv[1], "serve") && (size_t)atoi(argv[5]) <= sizeof payload[0])
		serve(s, argv[2], argv[3], atof(argv[4]), atoi(argv[5]));
	else if (argc == 6 && !strcmp(argv[1], "ask"))
		ask(s, argv[2], argv[3], atof(argv[4]), atof(argv[5]));
	else
		errx(2, "usage: udp_pull serve ADDRESS PORT SECONDS PAYLOAD | ask ADDRESS PORT WARM_UP WINDOW");
	return 0;
}
