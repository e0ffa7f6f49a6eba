// SPDX-License-Identifier: Apache-2.0
/* Opens a connection, sends a byte, waits for it to come back, closes; again and again, to several addresses in turn.
 *
 * usage: connect_rate FIRST_IPV4_ADDRESS ADDRESSES PORT SECONDS [PAUSE_MS]
 * One connection at a time; a pause after each makes a probe of it. An answer that doesn't come within three seconds
 * counts as failed, and as three seconds. Prints {"done": N, "failed": N, "seconds": T, "p50_us": A, "p99_us": B,
 * "max_us": C}: times from connect() to its return; done ones had their byte back.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MOST_SAMPLES = 1 << 21, GIVE_UP_S = 3 };

static int64_t took[MOST_SAMPLES];

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Nanoseconds that connect() took; -1 if there was no connection, or no byte over it. */
static int64_t one(uint32_t address, uint16_t l4_port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(l4_port), .sin_addr.s_addr = htonl(address) };
	const struct timeval give_up = { .tv_sec = GIVE_UP_S };
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int64_t began, connected = -1;
	char byte = 'x';

	if (s < 0)
		err(1, "socket");
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &give_up, sizeof give_up);	/* bounds connect() too */
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &give_up, sizeof give_up);
	began = now_ns();
	if (!connect(s, (struct sockaddr *)&to, sizeof to)) {
		connected = now_ns() - began;
		if (send(s, &byte, 1, MSG_NOSIGNAL) != 1 || recv(s, &byte, 1, 0) != 1)
			connected = -1;
	}
	close(s);
	return connected;
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	struct in_addr first;
	int addresses, count = 0, failed = 0, pause_ms;
	int64_t began, end;

	if (argc < 5 || argc > 6 || inet_pton(AF_INET, argv[1], &first) != 1 || (addresses = atoi(argv[2])) < 1)
		errx(2, "usage: connect_rate FIRST_IPV4_ADDRESS ADDRESSES PORT SECONDS [PAUSE_MS]");
	pause_ms = argc == 6 ? atoi(argv[5]) : 0;
	began = now_ns();
	end = began + (int64_t)(atof(argv[4]) * 1e9);
	for (; now_ns() < end && count < MOST_SAMPLES; count++) {
		took[count] = one(ntohl(first.s_addr) + count % addresses, atoi(argv[3]));
		if (took[count] < 0) {
			failed++;
			took[count] = GIVE_UP_S * 1000000000LL;
		}
		if (pause_ms)
			usleep(pause_ms * 1000);
	}
	end = now_ns();
	if (failed == count)
		errx(1, "none of %d connections came about", count);
	qsort(took, count, sizeof *took, ascending);
	printf("{\"done\": %d, \"failed\": %d, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
	       count - failed, failed, (end - began) / 1e9, took[count / 2] / 1e3, took[count * 99LL / 100] / 1e3,
	       took[count - 1] / 1e3);
	return 0;
}
