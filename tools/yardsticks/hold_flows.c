// SPDX-License-Identifier: Apache-2.0
/* Opens many flows to an echo server, one byte there and back over each, and keeps them idle.
 *
 * usage: hold_flows tcp|udp FIRST_IPV4_ADDRESS ADDRESSES PORT COUNT
 * Says "held N" when all that could be opened are, runs until killed. A flow over which no byte comes back within two
 * seconds ends the opening: N is then smaller than COUNT, and the reason is on stderr.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { GIVE_UP_S = 2, TRIES = 3 };

/* False where nothing comes back. The socket stays open. */
static int open_one(int type, uint32_t address, uint16_t l4_port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(l4_port), .sin_addr.s_addr = htonl(address) };
	const struct timeval give_up = { .tv_sec = GIVE_UP_S };
	int s = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	char byte = 'x';

	if (s < 0)
		return 0;
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &give_up, sizeof give_up);
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &give_up, sizeof give_up);
	if (connect(s, (struct sockaddr *)&to, sizeof to))
		return 0;
	for (int i = 0; i < (type == SOCK_DGRAM ? TRIES : 1); i++)
		if (send(s, &byte, 1, MSG_NOSIGNAL) == 1 && recv(s, &byte, 1, 0) == 1)
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	struct in_addr first;
	struct rlimit files;
	int type, addresses, count, held = 0;

	if (argc != 6 || inet_pton(AF_INET, argv[2], &first) != 1 || (addresses = atoi(argv[3])) < 1)
		errx(2, "usage: hold_flows tcp|udp FIRST_IPV4_ADDRESS ADDRESSES PORT COUNT");
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	type = strcmp(argv[1], "udp") ? SOCK_STREAM : SOCK_DGRAM;
	count = atoi(argv[5]);
	while (held < count && open_one(type, ntohl(first.s_addr) + held % addresses, atoi(argv[4])))
		held++;
	if (held < count)
		warn("flow %d", held + 1);
	printf("held %d\n", held);
	fflush(stdout);
	for (;;)
		pause();
}
