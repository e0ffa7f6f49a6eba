// SPDX-License-Identifier: Apache-2.0
/* Round-trip times of small messages over one TCP connection, where sockperf isn't installed.
 *
 * usage: tcp_round_trip server PORT              says "ready", answers one connection, ends with it
 *        tcp_round_trip client ADDRESS PORT SECONDS PAYLOAD_BYTES
 * The client prints {"round_trips": N, "p50_us": A, "p99_us": B}. One message is in flight at a time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MOST_SAMPLES = 1 << 22, LARGEST_PAYLOAD = 1400, GIVE_UP_SECONDS = 10 };

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int tcp_socket(void)
{
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	if (s < 0)
		err(1, "socket");
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	return s;
}

static void hurry(int s)
{
	struct timeval give_up = { .tv_sec = GIVE_UP_SECONDS };
	int on = 1;

	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &give_up, sizeof give_up);
}

static void serve(const char *l4_port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(l4_port)) };
	char message[LARGEST_PAYLOAD];
	int listener = tcp_socket(), s;
	ssize_t length;

	if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1))
		err(1, "port %s", l4_port);
	puts("ready");
	fflush(stdout);
	s = accept(listener, NULL, NULL);
	if (s < 0)
		err(1, "accept");
	hurry(s);
	while ((length = recv(s, message, sizeof message, 0)) > 0)
		if (send(s, message, length, MSG_NOSIGNAL) != length)
			break;
}

static void one_round_trip(int s, char *message, size_t length)
{
	if (send(s, message, length, MSG_NOSIGNAL) != (ssize_t)length)
		err(1, "send");
	for (size_t got = 0; got < length;) {
		ssize_t part = recv(s, message + got, length - got, 0);

		if (part <= 0)
			err(1, "recv");
		got += part;
	}
}

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void ask(const char *address, const char *l4_port, double seconds, size_t payload)
{
	static int64_t sample[MOST_SAMPLES];
	static char message[LARGEST_PAYLOAD];
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(l4_port)) };
	int64_t began, end = now_ns() + (int64_t)(seconds * 1e9);
	int s = tcp_socket(), count = 0;

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		errx(2, "%s is no IPv4 address", address);
	if (connect(s, (struct sockaddr *)&to, sizeof to))
		err(1, "%s", address);
	hurry(s);
	while ((began = now_ns()) < end && count < MOST_SAMPLES) {
		one_round_trip(s, message, payload);
		sample[count++] = now_ns() - began;
	}
	if (!count)
		errx(1, "no round trip in %g seconds", seconds);
	qsort(sample, count, sizeof *sample, ascending);
	printf("{\"round_trips\": %d, \"p50_us\": %.3f, \"p99_us\": %.3f}\n", count,
	       sample[count / 2] / 1e3, sample[count * 99LL / 100] / 1e3);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "server"))
		serve(argv[2]);
	else if (argc == 6 && !strcmp(argv[1], "client") && atoi(argv[5]) > 0 && atoi(argv[5]) <= LARGEST_PAYLOAD)
		ask(argv[2], argv[3], atof(argv[4]), atoi(argv[5]));
	else
		errx(2, "usage: tcp_round_trip server PORT | client ADDRESS PORT SECONDS PAYLOAD_BYTES");
	return 0;
}
