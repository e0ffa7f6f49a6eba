// SPDX-License-Identifier: Apache-2.0
/* Counts UDP datagrams that arrive in a window of time.
 *
 * usage: udp_sink PORT WARM_UP_SECONDS WINDOW_SECONDS
 * Says "ready" once bound. The window opens WARM_UP_SECONDS after the first datagram; when it closes, prints
 * {"received": N, "seconds": T}. Gives up with what it has when nothing comes for five seconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum {
	BATCH = 64,
	PAYLOAD_ROOM = 64,		/* longer datagrams are cut: only their number matters */
	SILENCE_SECONDS = 5,
	QUEUE_BYTES = 8 << 20,		/* so that a scheduler's pause doesn't count against the switch */
};

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int bound_socket(const char *l4_port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(l4_port)) };
	struct timeval silence = { .tv_sec = SILENCE_SECONDS };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = QUEUE_BYTES;

	if (s < 0 || bind(s, (struct sockaddr *)&at, sizeof at))
		err(1, "port %s", l4_port);
	if (setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room))
		err(1, "SO_RCVBUFFORCE");
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
	return s;
}

/* Takes what is there, waits for the first if nothing is. Returns how many; 0 after a long silence. */
static int take(int s)
{
	static char payload[BATCH][PAYLOAD_ROOM];
	static struct mmsghdr batch[BATCH];
	static struct iovec part[BATCH];
	int count;

	for (int i = 0; i < BATCH; i++) {
		part[i] = (struct iovec){ .iov_base = payload[i], .iov_len = PAYLOAD_ROOM };
		batch[i].msg_hdr = (struct msghdr){ .msg_iov = &part[i], .msg_iovlen = 1 };
	}
	count = recvmmsg(s, batch, BATCH, MSG_WAITFORONE, NULL);
	if (count < 0 && errno != EAGAIN && errno != EINTR)
		err(1, "recvmmsg");
	return count < 0 ? 0 : count;
}

int main(int argc, char **argv)
{
	unsigned long long received = 0;
	double opens, closes, now;
	int s;

	if (argc != 4)
		errx(2, "usage: udp_sink PORT WARM_UP_SECONDS WINDOW_SECONDS");
	s = bound_socket(argv[1]);
	puts("ready");
	fflush(stdout);
	if (!take(s)) {
		puts("{\"received\": 0, \"seconds\": 0}");
		return 0;
	}
	opens = now_s() + atof(argv[2]);
	closes = opens + atof(argv[3]);
	for (now = opens; now < closes;) {
		int count = take(s);

		now = count ? now_s() : closes;
		if (now >= opens)
			received += count;
	}
	printf("{\"received\": %llu, \"seconds\": %.6f}\n", received, now - opens);
	return 0;
}
