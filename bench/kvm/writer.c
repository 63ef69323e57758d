// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stands in for a QEMU with a busy guest: connects to the ivshmem server, answers HELLO
 * in C-chan, and writes records into a relay buffer in the shared memory as
 * probe_modules/core/record.c does, with a ring of the doorbell for each.
 *
 *	writer SOCKET SUBBUF_SIZE N_SUBBUFS
 *
 * Then, on its standard input, "RATE SECONDS" a line (RATE 0: as fast as it
 * can); on its standard output the number of records written.
 */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../../probe_modules/include/vesper_abi.h"

#define PAGE(n) ((n) * VSP_PAGE_SIZE)
#define CCHAN 1
#define TABLE 2
#define INDEX 3
#define BUFFER 4

static __u8 *memory;
static int to_host, to_guest;
static __u32 subbuf_size, n_subbufs, taken, given;
static __u64 pos, seq;

static void die(const char *what)
{
	fprintf(stderr, "writer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
		die(path);
	return fd;
}

/* One message of the handshake; its descriptor or -1. */
static int take_message(int fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	char data[8];
	struct iovec part = { data, sizeof(data) };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *found;
	int descriptor = -1;

	if (recvmsg(fd, &message, 0) != sizeof(data))
		die("handshake");
	found = CMSG_FIRSTHDR(&message);
	if (found)
		memcpy(&descriptor, CMSG_DATA(found), sizeof(descriptor));
	return descriptor;
}

static void ring(void)
{
	__u64 one = 1;

	if (write(to_host, &one, sizeof(one)) != sizeof(one) && errno != EAGAIN)
		die("doorbell");
}

static void *at(int page)
{
	return memory + PAGE(page);
}

static void prepare(void)
{
	struct vsp_shm_head *head = (void *)memory;
	struct vsp_cchan *cchan = at(CCHAN);
	struct vsp_table *table = at(TABLE);
	struct vsp_index *index = at(INDEX);

	cchan->magic = VSP_CCHAN_MAGIC;
	cchan->version = VSP_ABI_VERSION;
	table->magic = VSP_TABLE_MAGIC;
	table->version = VSP_ABI_VERSION;
	table->generation = 1;
	table->channel[0] = (struct vsp_channel) {
		.state = VSP_CHANNEL_OPEN, .generation = 1,
		.subbuf_size = subbuf_size, .n_subbufs = n_subbufs, .nr_cpus = 1,
		.index = { PAGE(INDEX), 1, 0 }, .modname = "send_signal",
	};
	index->buffer.handle = PAGE(BUFFER);
	index->buffer.pages = subbuf_size * n_subbufs / VSP_PAGE_SIZE;
	head->magic = VSP_SHM_MAGIC;
	head->version = VSP_ABI_VERSION;
	head->cchan = PAGE(CCHAN);
	head->epoch = 1;
	__atomic_store_n(&head->state, VSP_SHM_ACTIVE, __ATOMIC_RELEASE);
}

/* What the host wants: to be answered, and HELLO. */
static void serve(void)
{
	struct vsp_shm_head *head = (void *)memory;
	struct vsp_cchan *cchan = at(CCHAN);
	__u64 count;

	if (read(to_guest, &count, sizeof(count)) < 0 && errno != EAGAIN)
		die("doorbell");
	__atomic_store_n(&head->answer, head->wanted, __ATOMIC_RELEASE);
	while (__atomic_load_n(&cchan->to_guest.prod, __ATOMIC_ACQUIRE) != taken) {
		struct vsp_msg_hdr *request =
			(void *)cchan->to_guest.slot[taken % VSP_CCHAN_SLOTS];
		struct vsp_msg_hello reply = {
			.hdr = { request->type, request->seq, 0, VSP_ABI_VERSION },
			.nr_cpus = 1, .table = { PAGE(TABLE), 1, 0 }, .boot_id = 1,
			.release = "stand-in", .vermagic = "stand-in",
		};

		if (request->type != VSP_MSG_HELLO)
			reply.hdr.status = -EOPNOTSUPP;
		cchan->to_guest.cons = ++taken;
		memcpy(cchan->to_host.slot[given % VSP_CCHAN_SLOTS], &reply, sizeof(reply));
		__atomic_store_n(&cchan->to_host.prod, ++given, __ATOMIC_RELEASE);
	}
	ring();
}

static void publish(void)
{
	__atomic_store_n((__u64 *)at(INDEX), pos, __ATOMIC_RELEASE);
}

static __u64 now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void write_record(__u64 time)
{
	struct vsp_index *index = at(INDEX);
	struct vsp_send_signal rec = {
		.rec = { sizeof(rec), VSP_EVENT_SEND_SIGNAL, 0, seq++, time },
		.sig = 11, .code = 1, .flags = VSP_SIG_FATAL | VSP_SIG_ADDR, .addr = seq,
		.sender_pid = 97, .pid = 97, .tgid = 97, .parent_pid = 1,
		.sender_comm = "httpd", .comm = "httpd", .leader_comm = "httpd",
		.parent_comm = "init",
	};
	__u32 offset = pos % subbuf_size;

	if (offset + sizeof(rec) > subbuf_size) {
		index->pad[pos / subbuf_size % n_subbufs] = subbuf_size - offset;
		pos += subbuf_size - offset;
		publish();
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	}
	memcpy((__u8 *)at(BUFFER) + pos % ((__u64)subbuf_size * n_subbufs), &rec, sizeof(rec));
	pos += sizeof(rec);
	publish();
	ring();
}

/* In portions, as far as the time has come. */
static __u64 load(double rate, double seconds)
{
	__u64 begin = now(), end = begin + seconds * 1e9, first = seq, time;

	while ((time = now()) < end) {
		__u64 due = rate > 0 ? (time - begin) / 1e9 * rate : seq - first + 64;

		while (seq - first < due)
			write_record(now());
		if (rate > 0)
			usleep(500);
	}
	return seq - first;
}

int main(int argc, char **argv)
{
	struct pollfd wait[2] = { { .fd = 0, .events = POLLIN }, { .events = POLLIN } };
	double rate, seconds;
	struct stat status;
	int server, fd;

	if (argc != 4)
		return 2;
	subbuf_size = atoi(argv[2]);
	n_subbufs = atoi(argv[3]);
	server = connect_to(argv[1]);
	take_message(server);
	take_message(server);
	fd = take_message(server);
	to_host = take_message(server);
	to_guest = take_message(server);
	if (fstat(fd, &status))
		die("memory");
	memory = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		die("memory");
	prepare();
	wait[1].fd = to_guest;
	setvbuf(stdin, NULL, _IONBF, 0);
	for (;;) {
		if (poll(wait, 2, -1) < 0)
			die("poll");
		if (wait[1].revents)
			serve();
		if (!wait[0].revents)
			continue;
		if (scanf("%lf %lf", &rate, &seconds) != 2)
			return 0;
		printf("%llu\n", (unsigned long long)load(rate, seconds));
		fflush(stdout);
	}
}
