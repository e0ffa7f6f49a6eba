// SPDX-License-Identifier: Apache-2.0
/* Sends back whatever arrives, by TCP and by UDP, on every address. Connections stay until the client ends them.
 *
 * usage: echo_server PORT          says "ready", runs until killed
 * Messages are small and answered at once: what the client's window doesn't take is lost.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, LARGEST = 2048, BACKLOG = 4096 };

static int poller;
static char message[LARGEST];

static void watch(int fd)
{
	struct epoll_event interest = { .events = EPOLLIN, .data.fd = fd };

	if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &interest))
		err(1, "epoll_ctl");
}

static int bound(int type, const char *l4_port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(l4_port)) };
	int s = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (type == SOCK_DGRAM)
		setsockopt(s, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
	if (s < 0 || bind(s, (struct sockaddr *)&at, sizeof at) || (type == SOCK_STREAM && listen(s, BACKLOG)))
		err(1, "port %s", l4_port);
	watch(s);
	return s;
}

static void accept_all(int listener)
{
	int s, on = 1;

	while ((s = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		watch(s);
	}
	if (errno != EAGAIN && errno != ECONNABORTED)
		err(1, "accept");
}

/* Answers leave from the address that was asked. */
static void echo_datagrams(int s)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(struct in_pktinfo))]; } control;
	struct sockaddr_in from;
	struct iovec part = { .iov_base = message };
	struct msghdr about = { .msg_name = &from, .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control };

	for (;;) {
		ssize_t length;

		about.msg_namelen = sizeof from;
		about.msg_controllen = sizeof control;
		part.iov_len = sizeof message;
		if ((length = recvmsg(s, &about, 0)) < 0)
			return;
		part.iov_len = length;
		((struct in_pktinfo *)CMSG_DATA(&control.head))->ipi_ifindex = 0;
		sendmsg(s, &about, 0);
	}
}

static void echo_bytes(int s)
{
	ssize_t length = recv(s, message, sizeof message, 0);

	if (length > 0)
		send(s, message, length, MSG_NOSIGNAL);
	else if (!length || errno != EAGAIN)
		close(s);
}

int main(int argc, char **argv)
{
	struct epoll_event ready[EVENTS];
	struct rlimit files;
	int listener, datagrams, count;

	if (argc != 2)
		errx(2, "usage: echo_server PORT");
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	poller = epoll_create1(EPOLL_CLOEXEC);
	listener = bound(SOCK_STREAM, argv[1]);
	datagrams = bound(SOCK_DGRAM, argv[1]);
	puts("ready");
	fflush(stdout);
	while ((count = epoll_wait(poller, ready, EVENTS, -1)) >= 0 || errno == EINTR)
		for (int i = 0; i < count; i++) {
			if (ready[i].data.fd == listener)
				accept_all(listener);
			else if (ready[i].data.fd == datagrams)
				echo_datagrams(datagrams);
			else
				echo_bytes(ready[i].data.fd);
		}
	err(1, "epoll_wait");
}
