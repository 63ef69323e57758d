// SPDX-License-Identifier: GPL-2.0-only
/*
 * For tests: the host's end of vsp_loopback.  Reads commands from its standard input,
 * one a line, and prints the result of each in one line.
 *
 *	hello			release, vermagic and number of CPUs
 *	load NAME FILE [PARAMS]	send a module and have it loaded
 *	corrupt NAME FILE	like load, with a wrong checksum
 *	unload NAME
 *	request TYPE VERSION	a message of any type
 *	table			the channels
 *	records NAME		all records, one line each, in hexadecimal
 *	reopen			deactivate, activate
 *	poke			notify the guest without need
 *	sh COMMAND		run a shell command
 *	crash NAME		a process of that name touches address 0x10010
 *	goingdown MOUNT		shut a file system down (xfs)
 *	hwpoison NAME		a page of a process of that name is lost
 *	outlive NAME		its main thread ends, then another thread calls _exit(7)
 *
 * Run with arguments it is another program:
 *
 *	vsp_host hog		a real-time task that never sleeps
 *	vsp_host worker NAME	a process of that name.  Its thread pool-1 starts another
 *				process of that name, which crashes.
 *	vsp_host alarm NAME	a process of that name, killed by its timer
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../probe_modules/include/vesper_abi.h"

#define CRASH_PAGE 0x10000
#define XFS_IOC_GOINGDOWN _IOR('X', 125, __u32)

union host_message {
	__u8 bytes[VSP_MSG_SIZE];
	struct vsp_msg_hdr hdr;
	struct vsp_msg_hello hello;
	struct vsp_msg_mem mem;
	struct vsp_msg_load load;
	struct vsp_msg_unload unload;
	struct vsp_msg_result result;
};

static int host = -1;
static __u32 next_seq, requests, replies;

static void host_die(const char *what)
{
	fprintf(stderr, "vsp_host: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void host_read_region(__u64 handle, size_t place, void *to, size_t len)
{
	while (len) {
		ssize_t done = pread(host, to, len, (handle << 32) + place);

		if (done <= 0)
			host_die("read a region");
		to = (char *)to + done;
		place += done;
		len -= done;
	}
}

static void host_write_region(__u64 handle, size_t place, const void *from, size_t len)
{
	while (len) {
		ssize_t done = pwrite(host, from, len, (handle << 32) + place);

		if (done <= 0)
			host_die("write a region");
		from = (const char *)from + done;
		place += done;
		len -= done;
	}
}

static void host_activate(void)
{
	if (host >= 0)
		close(host);
	host = open("/dev/vsp_host", O_RDWR);
	if (host < 0)
		host_die("/dev/vsp_host");
	requests = 0;
	replies = 0;
}

#define RING(ring, field) \
	(offsetof(struct vsp_cchan, ring) + offsetof(struct vsp_cchan_ring, field))

/* Send a request, and replace it by its reply.  Waits for 30 s. */
static int host_send_request(union host_message *msg)
{
	__u32 prod, seq = ++next_seq;
	int tries;

	msg->hdr.seq = seq;
	host_write_region(0, RING(to_guest, slot) + requests % VSP_CCHAN_SLOTS * VSP_MSG_SIZE, msg,
			  sizeof(*msg));
	requests++;
	host_write_region(0, RING(to_guest, prod), &requests, sizeof(requests));
	for (tries = 0; tries < 3000; tries++) {
		host_read_region(0, RING(to_host, prod), &prod, sizeof(prod));
		if (prod != replies)
			break;
		usleep(10000);
	}
	if (prod == replies) {
		errno = ETIMEDOUT;
		host_die("reply");
	}
	host_read_region(0, RING(to_host, slot) + replies % VSP_CCHAN_SLOTS * VSP_MSG_SIZE, msg,
			 sizeof(*msg));
	replies++;
	host_write_region(0, RING(to_host, cons), &replies, sizeof(replies));
	if (msg->hdr.seq != seq) {
		errno = EPROTO;
		host_die("reply's seq");
	}
	return msg->hdr.status;
}

static union host_message host_make_request(__u32 type)
{
	union host_message msg = { .hdr = { .type = type, .version = VSP_ABI_VERSION } };

	return msg;
}

static __u32 host_crc32(const __u8 *data, size_t len)
{
	__u32 crc = ~0u;
	int bit;

	while (len--) {
		crc ^= *data++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

static void host_load(const char *name, const char *file, const char *params, int wrong)
{
	static __u8 image[1 << 20];
	size_t len, plen = strlen(params);
	union host_message msg = host_make_request(VSP_MSG_MEM_ALLOC);
	struct vsp_region region;
	FILE *in = fopen(file, "r");

	if (!in)
		host_die(file);
	len = fread(image, 1, sizeof(image) - plen, in);
	fclose(in);
	memcpy(image + len, params, plen);

	msg.mem.region.pages = (len + plen + VSP_PAGE_SIZE - 1) / VSP_PAGE_SIZE;
	if (host_send_request(&msg)) {
		printf("load %s: memory: %d\n", name, msg.hdr.status);
		return;
	}
	region = msg.mem.region;
	host_write_region(region.handle, 0, image, len + plen);

	msg = host_make_request(VSP_MSG_LOAD);
	msg.load.region = region;
	msg.load.image_len = len;
	msg.load.params_len = plen;
	msg.load.crc32 = host_crc32(image, len + plen) ^ wrong;
	snprintf(msg.load.name, sizeof(msg.load.name), "%s", name);
	host_send_request(&msg);
	printf("load %s: %d %s\n", name, msg.hdr.status, msg.result.text);
}

static void host_unload(const char *name)
{
	union host_message msg = host_make_request(VSP_MSG_UNLOAD);

	snprintf(msg.unload.name, sizeof(msg.unload.name), "%s", name);
	host_send_request(&msg);
	printf("unload %s: %d %s\n", name, msg.hdr.status, msg.result.text);
}

static __u32 host_hello(union host_message *msg)
{
	*msg = host_make_request(VSP_MSG_HELLO);
	host_send_request(msg);
	return msg->hello.nr_cpus;
}

static struct vsp_table host_read_table(void)
{
	struct vsp_table table;
	union host_message msg;

	host_hello(&msg);
	host_read_region(msg.hello.table.handle, 0, &table, sizeof(table));
	return table;
}

static void host_print_table(void)
{
	struct vsp_table t = host_read_table();
	int i, n = 0;

	for (i = 0; i < VSP_MAX_CHANNELS; i++) {
		struct vsp_channel *c = &t.channel[i];

		if (c->state != VSP_CHANNEL_OPEN)
			continue;
		printf("channel %s: %u * %u bytes, %u CPUs\n", c->modname, c->n_subbufs,
		       c->subbuf_size, c->nr_cpus);
		n++;
	}
	printf("table: %d channels\n", n);
}

/* Print all records of a CPU's buffer, the oldest first. */
static void host_print_buffer(const struct vsp_channel *c, int cpu)
{
	__u64 place = (__u64)cpu * sizeof(struct vsp_index), sub, last;
	static __u8 data[1 << 20];
	struct vsp_index index;

	host_read_region(c->index.handle, place, &index, sizeof(index));
	if (!index.buffer.handle)
		return;
	host_read_region(index.buffer.handle, 0, data, (size_t)c->subbuf_size * c->n_subbufs);
	last = index.pos / c->subbuf_size;
	for (sub = last < c->n_subbufs ? 0 : last - c->n_subbufs + 1; sub <= last; sub++) {
		__u8 *at = data + sub % c->n_subbufs * c->subbuf_size;
		__u8 *end = at + (sub == last ? index.pos % c->subbuf_size :
				     c->subbuf_size - index.pad[sub % c->n_subbufs]);

		while (at < end) {
			struct vsp_record *rec = (void *)at;
			__u32 i;

			printf("record %s %d ", c->modname, cpu);
			for (i = 0; i < rec->len; i++)
				printf("%02x", at[i]);
			printf("\n");
			if (rec->len < sizeof(*rec))
				break;
			at += rec->len;
		}
	}
}

static void host_print_records(const char *name)
{
	struct vsp_table t = host_read_table();
	unsigned int i, cpu;

	for (i = 0; i < VSP_MAX_CHANNELS; i++) {
		struct vsp_channel *c = &t.channel[i];

		if (c->state != VSP_CHANNEL_OPEN || strcmp(c->modname, name))
			continue;
		for (cpu = 0; cpu < c->nr_cpus; cpu++)
			host_print_buffer(c, cpu);
	}
	printf("records %s: end\n", name);
}

static void host_crash(const char *name)
{
	pid_t pid = fork();
	char *page;

	if (pid < 0)
		host_die("fork");
	if (!pid) {
		prctl(PR_SET_NAME, name);
		page = mmap((void *)CRASH_PAGE, 4096, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		page[16] = 1;
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	printf("crash %s: %d\n", name, pid);
}

static void host_hwpoison(const char *name)
{
	pid_t pid = fork();
	char *page;
	int status;

	if (pid < 0)
		host_die("fork");
	if (!pid) {
		prctl(PR_SET_NAME, name);
		page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		page[0] = 1;
		if (madvise(page, 4096, MADV_HWPOISON))
			_exit(errno);
		page[0] = 2;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	printf("hwpoison %s: %d %s\n", name, pid,
	       WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : strerror(WEXITSTATUS(status)));
}

static void host_goingdown(const char *mount)
{
	__u32 how = 2;	/* XFS_FSOP_GOING_FLAGS_NOLOGFLUSH */
	int fd = open(mount, O_RDONLY);
	int err;

	if (fd < 0)
		host_die(mount);
	err = ioctl(fd, XFS_IOC_GOINGDOWN, &how);
	printf("goingdown %s: %d\n", mount, err ? -errno : 0);
	close(fd);
}

static void *host_end_process(void *unused)
{
	(void)unused;
	usleep(100000);
	_exit(7);	/* ends the process; exit() would rewind the script on stdin */
}

static void host_outlive(const char *name)
{
	pid_t pid = fork();
	pthread_t thread;

	if (pid < 0)
		host_die("fork");
	if (!pid) {
		prctl(PR_SET_NAME, name);
		if (pthread_create(&thread, NULL, host_end_process, NULL))
			host_die("thread");
		syscall(SYS_exit, 3);
	}
	waitpid(pid, NULL, 0);
	printf("outlive %s: %d\n", name, pid);
}

static void host_run_command(char *line)
{
	char *word[4] = { "", "", "", "" }, *rest = line;
	union host_message msg;
	int i;

	if (!strncmp(line, "sh ", 3)) {
		printf("sh: %d\n", system(line + 3));
		return;
	}
	for (i = 0; i < 4 && rest; i++)
		word[i] = i < 3 ? strsep(&rest, " ") : rest;

	if (!strcmp(word[0], "hello")) {
		host_hello(&msg);
		printf("hello: %d %s | %s | %u CPUs\n", msg.hdr.status, msg.hello.release,
		       msg.hello.vermagic, msg.hello.nr_cpus);
	} else if (!strcmp(word[0], "load")) {
		host_load(word[1], word[2], word[3], 0);
	} else if (!strcmp(word[0], "corrupt")) {
		host_load(word[1], word[2], "", 1);
	} else if (!strcmp(word[0], "unload")) {
		host_unload(word[1]);
	} else if (!strcmp(word[0], "request")) {
		msg = host_make_request(strtoul(word[1], NULL, 0));
		msg.hdr.version = strtoul(word[2], NULL, 0);
		host_send_request(&msg);
		printf("request %s: %d\n", word[1], msg.hdr.status);
	} else if (!strcmp(word[0], "table")) {
		host_print_table();
	} else if (!strcmp(word[0], "records")) {
		host_print_records(word[1]);
	} else if (!strcmp(word[0], "crash")) {
		host_crash(word[1]);
	} else if (!strcmp(word[0], "outlive")) {
		host_outlive(word[1]);
	} else if (!strcmp(word[0], "hwpoison")) {
		host_hwpoison(word[1]);
	} else if (!strcmp(word[0], "goingdown")) {
		host_goingdown(word[1]);
	} else if (!strcmp(word[0], "poke")) {
		host_write_region(0, RING(to_host, cons), &replies, sizeof(replies));
		printf("poke: 0\n");
	} else if (!strcmp(word[0], "reopen")) {
		host_activate();
		printf("reopen: 0\n");
	} else {
		printf("what? %s\n", line);
	}
}

/* Occupy a CPU: no normal thread runs there any more. */
static void host_hog(void)
{
	struct sched_param param = { .sched_priority = 50 };

	if (sched_setscheduler(0, SCHED_FIFO, &param))
		host_die("SCHED_FIFO");
	for (;;)
		;
}

static void *host_start_worker(void *name)
{
	pid_t pid;

	prctl(PR_SET_NAME, "pool-1");
	pid = fork();
	if (!pid) {
		prctl(PR_SET_NAME, name);
		raise(SIGSEGV);
	}
	waitpid(pid, NULL, 0);
	return NULL;
}

static int host_worker(char *name)
{
	pthread_t thread;

	prctl(PR_SET_NAME, name);
	if (pthread_create(&thread, NULL, host_start_worker, name))
		host_die("thread");
	pthread_join(thread, NULL);
	return 0;
}

int main(int argc, char **argv)
{
	char line[2048];

	if (argc == 3 && !strcmp(argv[1], "worker"))
		return host_worker(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "alarm")) {
		prctl(PR_SET_NAME, argv[2]);
		alarm(1);
		pause();
	}
	if (argc == 2 && !strcmp(argv[1], "hog"))
		host_hog();
	setvbuf(stdout, NULL, _IOLBF, 0);
	host_activate();
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		if (line[0])
			host_run_command(line);
	}
	return 0;
}
