// SPDX-License-Identifier: Apache-2.0
/* The raw NAT loop: the least that one thread must do to carry a container's TCP and UDP over host sockets, and so the
 * mark that vswitch's way out is measured against. A yardstick, no implementation: nothing is checked, limited, timed
 * out or repaired, and connect() blocks.
 *
 * One TAP with vnet header and offloads at MTU 1500. TCP: a flow is a host socket; super-frames both ways, the window
 * offered is what its send buffer still takes, bytes read from it are sent once and forgotten. UDP: a socket per
 * source port of the container, one sendto() per frame out, recvmmsg() in.
 * A published port listens on every address of the namespace that the loop runs in; the container sees the client.
 *
 * usage: nat_loop NETNS_FILE CONTAINER_IPV4 [PUBLISHED_TCP_PORT...]
 * Makes eth0 (down, without address) in the namespace, says "ready" on stdout, runs until killed. Whatever the
 * container sends to MAC 02:00:00:00:00:01 leaves; nobody answers ARP, so that entry must be permanent.
 */
#define _GNU_SOURCE
#include "nat_link.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
	MOST_FLOWS = 19000,
	BUCKETS = 1 << 15,
	BURST = 64,			/* frames taken from the TAP before sockets have their turn */
	EVENTS = 128,
	FRAME_ROOM = 12 + 18 + 65536,
	DATAGRAM_ROOM = 2048,
	SEND_BUFFER = 2 << 20,		/* the kernel doubles it: 4 MiB, writable again below 2.67 */
	WINDOW_ROOM = 3 << 20,		/* offered at most; what small writes cost beyond it is the rest of the buffer */
	TIGHT = 256 << 10,		/* below this, EPOLLOUT says when to offer more */
	SHIFT = 8,
	SYN_OPTION_BYTES = 8,
	DEFAULT_MSS = 536,
	LARGEST_PACKET = 65535 - 40,
};

enum kind { TAP, LISTENER, FLOW, MAPPING };

struct source { enum kind kind; int fd; uint16_t l4_port; };	/* what epoll points at; begins every kind */

struct flow {
	struct source io;
	uint32_t remote;			/* as the container sees it; network order, like both ports */
	uint16_t sport, dport;			/* the container's, the other's */
	uint32_t next, acked, window;		/* towards the container: to send next, acknowledged, what it takes */
	uint32_t expected, last_ack;		/* from the container: next byte, what was last acknowledged */
	uint16_t mss;
	uint8_t shift;
	bool answering, readable, tight, heard_fin, sent_fin, queued;
	struct flow *chain;
};

static struct flow flows[MOST_FLOWS], *free_flows, *buckets[BUCKETS], *waiting[MOST_FLOWS];
static struct source *mappings[1 << 16], tap = { .kind = TAP };
static int poller, waiting_count;
static uint8_t incoming[FRAME_ROOM], outgoing[FRAME_ROOM];

static void watch(struct source *what, uint32_t events)
{
	struct epoll_event interest = { .events = events, .data.ptr = what };

	if (epoll_ctl(poller, EPOLL_CTL_ADD, what->fd, &interest))
		err(1, "epoll_ctl");
}

/* ---- TCP ---- */

static struct flow **bucket(uint32_t remote, uint16_t sport, uint16_t dport)
{
	uint32_t mixed = (remote ^ (uint32_t)sport << 16 ^ dport) * 2654435761u;

	return &buckets[mixed >> 17];
}

static struct flow *find(uint32_t remote, uint16_t sport, uint16_t dport)
{
	struct flow *f = *bucket(remote, sport, dport);

	while (f && (f->remote != remote || f->sport != sport || f->dport != dport))
		f = f->chain;
	return f;
}

/* A flow of its own for a connected or accepted socket; NULL when there are too many. */
static struct flow *adopt(int fd, uint32_t remote, uint16_t sport, uint16_t dport)
{
	static const int room = SEND_BUFFER, on = 1;
	struct flow *f = free_flows, **at = bucket(remote, sport, dport);

	if (!f)
		return NULL;
	free_flows = f->chain;
	*f = (struct flow){ .io = { .kind = FLOW, .fd = fd }, .remote = remote, .sport = sport, .dport = dport,
			    .next = 1, .mss = DEFAULT_MSS, .chain = *at, .queued = f->queued };
	*at = f;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return f;
}

static void forget(struct flow *f)
{
	struct flow **at = bucket(f->remote, f->sport, f->dport);

	while (*at != f)
		at = &(*at)->chain;
	*at = f->chain;
	close(f->io.fd);
	f->io.fd = -1;
	f->chain = free_flows;
	free_flows = f;
}

/* What the host socket still takes. Asks to be told when that is little. */
static uint32_t room_of(struct flow *f)
{
	int unsent = 0, room;

	ioctl(f->io.fd, SIOCOUTQ, &unsent);
	room = unsent < WINDOW_ROOM ? WINDOW_ROOM - unsent : 0;
	if (room < TIGHT && !f->tight) {
		struct epoll_event interest = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = f };

		f->tight = true;
		epoll_ctl(poller, EPOLL_CTL_MOD, f->io.fd, &interest);
	}
	return room;
}

/* One segment; its payload lies behind the headers in `outgoing` already. */
static void emit(struct flow *f, uint8_t flags, int options, int payload)
{
	struct frame *to = (struct frame *)outgoing;
	int header = sizeof to->tcp + options;

	dress(to, f->remote, IPPROTO_TCP, header + payload);
	to->tcp = (struct tcphdr){ .source = f->dport, .dest = f->sport, .seq = htonl(f->next), .doff = header / 4,
				   .ack_seq = flags & TH_ACK ? htonl(f->expected) : 0 };
	to->tcp.th_flags = flags;
	to->tcp.window = flags & TH_SYN ? 0xffff : htons(room_of(f) >> SHIFT);
	to->tcp.check = pseudo_header(to, header + payload);
	if (payload > f->mss) {
		to->vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
		to->vnet.gso_size = f->mss;
		to->vnet.hdr_len = ETH_HLEN + sizeof to->ip + header;
	}
	if (write(tap.fd, to, sizeof *to + options + payload) < 0)
		warn("eth0");	/* lost for good: the run shows it */
	f->next += payload + !!(flags & (TH_SYN | TH_FIN));
	f->last_ack = f->expected;
}

static void emit_syn(struct flow *f, uint8_t flags)
{
	uint8_t *options = outgoing + sizeof(struct frame);

	memcpy(options, (uint8_t[]){ TCPOPT_MAXSEG, 4, 1460 >> 8, 1460 & 0xff, TCPOPT_NOP, TCPOPT_WINDOW, 3, SHIFT },
	       SYN_OPTION_BYTES);
	emit(f, flags, SYN_OPTION_BYTES, 0);
}

static void learn_options(struct flow *f, const struct frame *from)
{
	const uint8_t *at = (const uint8_t *)(from + 1), *end = at - sizeof from->tcp + from->tcp.doff * 4;

	while (at + 1 < end && *at != TCPOPT_EOL) {
		if (*at == TCPOPT_NOP) {
			at++;
			continue;
		}
		if (*at == TCPOPT_MAXSEG)
			f->mss = at[2] << 8 | at[3];
		if (*at == TCPOPT_WINDOW)
			f->shift = at[2];
		at += at[1] ? at[1] : 1;
	}
}

static void connect_out(const struct frame *from)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = from->tcp.dest, .sin_addr.s_addr = from->ip.daddr };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct flow *f;

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) ||
	    !(f = adopt(fd, from->ip.daddr, from->tcp.source, from->tcp.dest))) {
		if (fd >= 0)
			close(fd);
		return;		/* the container tries again */
	}
	f->expected = ntohl(from->tcp.seq) + 1;
	f->acked = f->next;
	f->window = ntohs(from->tcp.window);
	learn_options(f, from);
	emit_syn(f, TH_SYN | TH_ACK);
	watch(&f->io, EPOLLIN | EPOLLET);
}

static void accept_in(const struct source *listener)
{
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	int fd = accept4(listener->fd, (struct sockaddr *)&from, &length, SOCK_CLOEXEC);
	struct flow *f;

	if (fd < 0)
		return;
	f = adopt(fd, from.sin_addr.s_addr, listener->l4_port, from.sin_port);
	if (!f) {
		close(fd);
		return;
	}
	f->answering = true;
	emit_syn(f, TH_SYN);
}

static void break_off(struct flow *f)
{
	emit(f, TH_RST | TH_ACK, 0, 0);
	forget(f);
}

/* Host → container, until the socket is empty or the container's window full. False: the flow is gone. */
static bool drain(struct flow *f)
{
	while (f->readable && !f->sent_fin) {
		uint32_t in_flight = f->next - f->acked, most = LARGEST_PACKET / f->mss * f->mss;
		ssize_t got;

		if (in_flight >= f->window)
			return true;
		if (most > f->window - in_flight)
			most = f->window - in_flight;
		if (most < f->mss && in_flight)
			return true;
		got = recv(f->io.fd, outgoing + sizeof(struct frame), most, MSG_DONTWAIT);
		if (got > 0) {
			emit(f, TH_PUSH | TH_ACK, 0, got);
		} else if (!got) {
			f->sent_fin = true;
			emit(f, TH_FIN | TH_ACK, 0, 0);
		} else if (errno == EAGAIN) {
			f->readable = false;
		} else {
			break_off(f);
			return false;
		}
	}
	return true;
}

/* After a burst: what the container sent is acknowledged once, with data where there is some. */
static void settle(struct flow *f)
{
	f->queued = false;
	if (f->io.fd < 0 || f->answering || !drain(f))
		return;
	if (f->last_ack != f->expected)
		emit(f, TH_ACK, 0, 0);
	if (f->heard_fin && f->sent_fin && f->acked == f->next)
		forget(f);
}

static void settle_later(struct flow *f)
{
	if (!f->queued)
		waiting[waiting_count++] = f;
	f->queued = true;
}

static void take_payload(struct flow *f, const struct frame *from, int payload)
{
	const uint8_t *bytes = (const uint8_t *)(from + 1) - sizeof from->tcp + from->tcp.doff * 4;
	int known = f->expected - ntohl(from->tcp.seq);
	ssize_t took;

	if (known < 0 || known >= payload) {
		f->last_ack = f->expected - 1;	/* nothing new: say again what is expected */
		return;
	}
	took = send(f->io.fd, bytes + known, payload - known, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (took > 0)
		f->expected += took;
}

static void tcp_out(const struct frame *from)
{
	struct flow *f = find(from->ip.daddr, from->tcp.source, from->tcp.dest);
	int payload = ntohs(from->ip.tot_len) - sizeof from->ip - from->tcp.doff * 4;

	if (!f) {
		if (from->tcp.syn && !from->tcp.ack)
			connect_out(from);
		return;
	}
	if (from->tcp.rst) {
		setsockopt(f->io.fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
		forget(f);
		return;
	}
	f->acked = ntohl(from->tcp.ack_seq);
	f->window = ntohs(from->tcp.window) << (from->tcp.syn ? 0 : f->shift);
	if (from->tcp.syn) {
		if (!f->answering)
			return;
		f->answering = false;
		f->expected = ntohl(from->tcp.seq) + 1;
		learn_options(f, from);
		watch(&f->io, EPOLLIN | EPOLLET);
	}
	if (payload > 0)
		take_payload(f, from, payload);
	if (from->tcp.fin && !f->heard_fin && ntohl(from->tcp.seq) + payload == f->expected) {
		f->heard_fin = true;
		f->expected++;
		shutdown(f->io.fd, SHUT_WR);
	}
	settle_later(f);
}

static void flow_ready(struct flow *f, uint32_t events)
{
	if (f->io.fd < 0)
		return;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		f->readable = true;
	if (events & EPOLLOUT && f->tight) {
		f->tight = false;
		f->last_ack = f->expected - 1;	/* offers the room */
	}
	settle_later(f);
}

/* ---- UDP ---- */

static struct source *mapping_of(uint16_t l4_port)
{
	struct source *m = mappings[l4_port];

	if (!m) {
		m = mappings[l4_port] = calloc(1, sizeof *m);
		*m = (struct source){ .kind = MAPPING, .l4_port = l4_port,
				      .fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) };
		if (m->fd < 0)
			err(1, "socket");
		watch(m, EPOLLIN);
	}
	return m;
}

static void udp_out(const struct frame *from)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = from->udp.dest, .sin_addr.s_addr = from->ip.daddr };

	sendto(mapping_of(from->udp.source)->fd, &from->udp + 1, ntohs(from->udp.len) - sizeof from->udp, MSG_DONTWAIT,
	       (struct sockaddr *)&to, sizeof to);
}

static void udp_in(const struct source *m)
{
	enum { HEADERS = sizeof(struct frame) - sizeof(struct tcphdr) + sizeof(struct udphdr) };
	static uint8_t rows[BURST][HEADERS + DATAGRAM_ROOM];
	static struct sockaddr_in from[BURST];
	static struct iovec part[BURST];
	static struct mmsghdr batch[BURST];
	int count;

	for (int i = 0; i < BURST; i++) {
		part[i] = (struct iovec){ .iov_base = rows[i] + HEADERS, .iov_len = DATAGRAM_ROOM };
		batch[i].msg_hdr = (struct msghdr){ .msg_iov = &part[i], .msg_iovlen = 1, .msg_name = &from[i],
						    .msg_namelen = sizeof from[i] };
	}
	count = recvmmsg(m->fd, batch, BURST, MSG_DONTWAIT, NULL);
	for (int i = 0; i < count; i++) {
		struct frame *to = (struct frame *)rows[i];
		int l4_bytes = sizeof to->udp + batch[i].msg_len;

		dress(to, from[i].sin_addr.s_addr, IPPROTO_UDP, l4_bytes);
		to->udp = (struct udphdr){ .source = from[i].sin_port, .dest = m->l4_port, .len = htons(l4_bytes) };
		to->udp.check = pseudo_header(to, l4_bytes);
		if (write(tap.fd, to, HEADERS + batch[i].msg_len) < 0)
			continue;	/* dropped: the container takes no more */
	}
}

/* ---- start, loop ---- */

static void publish(const char *l4_port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(atoi(l4_port)) };
	struct source *listener = calloc(1, sizeof *listener);
	int on = 1;

	*listener = (struct source){ .kind = LISTENER, .l4_port = at.sin_port,
				     .fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) };
	setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener->fd, (struct sockaddr *)&at, sizeof at) || listen(listener->fd, 1024))
		err(1, "port %s", l4_port);
	watch(listener, EPOLLIN);
}

static void tap_ready(void)
{
	const struct frame *from = (const struct frame *)incoming;

	for (int taken = 0; taken < BURST && read(tap.fd, incoming, sizeof incoming) > 0; taken++) {
		if (from->ethernet.h_proto != htons(ETH_P_IP) || from->ip.ihl != 5 ||
		    memcmp(from->ethernet.h_dest, gateway_mac, ETH_ALEN))
			continue;
		if (from->ip.protocol == IPPROTO_TCP)
			tcp_out(from);
		else if (from->ip.protocol == IPPROTO_UDP)
			udp_out(from);
	}
}

static void turn(void)
{
	struct epoll_event ready[EVENTS];
	int count = epoll_wait(poller, ready, EVENTS, -1);

	if (count < 0 && errno != EINTR)
		err(1, "epoll_wait");
	for (int i = 0; i < count; i++) {
		struct source *what = ready[i].data.ptr;

		switch (what->kind) {
		case TAP: tap_ready(); break;
		case LISTENER: accept_in(what); break;
		case FLOW: flow_ready((struct flow *)what, ready[i].events); break;
		case MAPPING: udp_in(what); break;
		}
	}
	for (int i = 0; i < waiting_count; i++)
		settle(waiting[i]);
	waiting_count = 0;
}

int main(int argc, char **argv)
{
	struct rlimit files;

	if (argc < 3 || inet_pton(AF_INET, argv[2], &container) != 1)
		errx(2, "usage: nat_loop NETNS_FILE CONTAINER_IPV4 [PUBLISHED_TCP_PORT...]");
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	for (int i = 0; i < MOST_FLOWS; i++) {
		flows[i].io.fd = -1;
		flows[i].chain = free_flows;
		free_flows = &flows[i];
	}
	poller = epoll_create1(EPOLL_CLOEXEC);
	tap.fd = open_tap(argv[1]);
	watch(&tap, EPOLLIN);
	for (int i = 3; i < argc; i++)
		publish(argv[i]);
	puts("ready");
	fflush(stdout);
	for (;;)
		turn();
}
