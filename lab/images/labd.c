// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The lab's hand inside the guest: brings faults about and tells when.
 *
 * Listens on TCP port 7777; each connection is served by a process of its own,
 * one request a line, one answer a line (for sh: "STATUS LENGTH", then the
 * output).  All times are CLOCK_MONOTONIC of this guest in ns.
 *
 *   clock            -> NOW REALTIME
 *   kill SIG NAME    -> BEFORE AFTER PID   signal to the main process of NAME
 *   oom NAME         -> WHEN UNCERTAINTY PID   memory runs out, NAME is killed
 *   oom-other NAME   -> likewise, but NAME is spared and another process killed
 *   fill             -> PID   memory fills up but for a rest, until the connection ends
 *   sh COMMAND       -> runs it
 *   end HOW          -> WHEN   at that time: panic, poweroff, reboot, hang
 *
 * The main process of a service is the one whose parent is not of its name.
 * For oom, WHEN is the kernel's own stamp of the line "... invoked oom-killer"
 * that goes before the kill, moved from printk's clock to CLOCK_MONOTONIC.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <netinet/tcp.h>
#include <unistd.h>

#define PORT 7777
#define OOM_WAIT_S 60
/* From the answer to the end of the guest: the answer must have left it. */
#define END_AFTER_NS 500000000
#define CHUNK (1 << 20)
#define FILL_LEAVES (16 * CHUNK)

static int64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = write(fd, text, strlen(text));
	close(fd);
	return n < 0 ? -1 : 0;
}

static int oom_score(pid_t pid, const char *value)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
	return write_file(path, value);
}

/* Name (without parentheses) and parent of a process; 0 if there is no such process. */
static int process(pid_t pid, char name[64], pid_t *parent)
{
	char path[64], line[512], *open_mark, *close_mark;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	open_mark = strchr(line, '(');
	close_mark = strrchr(line, ')');
	if (!open_mark || !close_mark || sscanf(close_mark + 1, " %*c %d", parent) != 1)
		return 0;
	*close_mark = 0;
	snprintf(name, 64, "%.63s", open_mark + 1);
	return 1;
}

static pid_t main_process(const char *wanted)
{
	char name[64], parent_name[64];
	pid_t found = 0, pid, parent, grand;
	struct dirent *entry;
	DIR *proc = opendir("/proc");

	while (proc && !found && (entry = readdir(proc))) {
		pid = atoi(entry->d_name);
		if (pid <= 0 || !process(pid, name, &parent) || strcmp(name, wanted))
			continue;
		if (!process(parent, parent_name, &grand) || strcmp(parent_name, wanted))
			found = pid;
	}
	if (proc)
		closedir(proc);
	return found;
}

static int signal_number(const char *name)
{
	static const struct { const char *name; int number; } known[] = {
		{ "SEGV", SIGSEGV }, { "KILL", SIGKILL }, { "TERM", SIGTERM }, { "ABRT", SIGABRT },
		{ "BUS", SIGBUS }, { "HUP", SIGHUP }, { "INT", SIGINT }, { "STOP", SIGSTOP },
		{ "CONT", SIGCONT }, { "USR1", SIGUSR1 }, { "CHLD", SIGCHLD },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(name, known[i].name))
			return known[i].number;
	return atoi(name);
}

/* ------------------------------------------------------------ out of memory */

/* Next record of /dev/kmsg: its text, and its stamp in ns; -1 if there is none now. */
static int64_t kmsg_next(int fd, char *text, size_t size)
{
	char record[8192], *mark;
	int64_t stamp;
	ssize_t n;

	do {
		n = read(fd, record, sizeof(record) - 1);
	} while (n < 0 && errno == EPIPE);	/* overwritten meanwhile: the next one */
	if (n <= 0)
		return -1;
	record[n] = 0;
	mark = strchr(record, ';');
	if (!mark || sscanf(record, "%*[^,],%*[^,],%" SCNd64, &stamp) != 1)
		return -1;
	snprintf(text, size, "%s", mark + 1);
	return stamp * 1000;
}

/* What must be added to a stamp of printk's to get CLOCK_MONOTONIC. */
struct sync {
	int64_t stamp, offset;
	int64_t error;		/* the offset is wrong by at most this */
};

static struct sync compare_clocks(int fd)
{
	struct sync best = { .error = INT64_MAX };
	char mark[64], text[8192];

	for (int i = 0; i < 8; i++) {
		int64_t before, half, stamp;

		/* Without the newline the kernel keeps the record back: more may follow. */
		snprintf(mark, sizeof(mark), "labd: clock %d %d\n", getpid(), i);
		before = now(CLOCK_MONOTONIC);
		write_file("/dev/kmsg", mark);
		half = (now(CLOCK_MONOTONIC) - before) / 2;
		while ((stamp = kmsg_next(fd, text, sizeof(text))) >= 0)
			if (!strncmp(text, mark, strlen(mark)) && half < best.error)
				best = (struct sync){ stamp, before + half - stamp, half };
	}
	return best;
}

/*
 * Some seconds after the boot the TSC, which printk's clock is, may be
 * calibrated badly: the two clocks drift apart by some ms each second.
 */
static int64_t between(struct sync a, struct sync b, int64_t stamp)
{
	double share = (double)(stamp - a.stamp) / (b.stamp - a.stamp);

	return stamp + a.offset + (b.offset - a.offset) * share;
}

/* However uneven the drift was: it has gone from the one offset to the other. */
static int64_t uncertainty(struct sync a, struct sync b)
{
	return (a.error > b.error ? a.error : b.error) + llabs(b.offset - a.offset);
}

static void sleep_for_ever(void)
{
	for (;;)
		pause();
}

static void eat_memory(void)
{
	prctl(PR_SET_NAME, "hog");
	for (;;) {
		char *chunk = malloc(CHUNK);

		if (chunk)
			memset(chunk, 0x5a, CHUNK);
	}
}

static pid_t spawn(const char *name, const char *score, void (*body)(void))
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, name);
	oom_score(getpid(), score);
	body();
	_exit(0);
}

/* So that what is left fills up in no time when the fault is due. */
static void fill_memory(void)
{
	struct sysinfo memory;

	while (!sysinfo(&memory) && memory.freeram * memory.mem_unit > FILL_LEAVES) {
		char *chunk = malloc(CHUNK);

		if (chunk)
			memset(chunk, 0x5a, CHUNK);
	}
	sleep_for_ever();
}

static void out_of_memory(FILE *out, const char *service, int spare)
{
	int64_t stamp, deadline, when = -1;
	struct sync first, last;
	pid_t main_pid = main_process(service), victim = main_pid, hog, killed;
	char text[8192];
	int kmsg;

	if (!main_pid) {
		fprintf(out, "error no process %s\n", service);
		return;
	}
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	if (kmsg < 0) {
		fprintf(out, "error /dev/kmsg: %s\n", strerror(errno));
		return;
	}
	lseek(kmsg, 0, SEEK_END);
	first = compare_clocks(kmsg);
	if (spare)
		victim = spawn("batch", "1000", sleep_for_ever);
	oom_score(main_pid, spare ? "-1000" : "1000");
	hog = spawn("hog", "0", eat_memory);

	deadline = now(CLOCK_MONOTONIC) + OOM_WAIT_S * INT64_C(1000000000);
	do {
		stamp = kmsg_next(kmsg, text, sizeof(text));
		if (stamp < 0) {
			usleep(2000);
			continue;
		}
		if (strstr(text, " invoked oom-killer"))
			when = stamp;
		if (sscanf(text, "Out of memory: Killed process %d", &killed) == 1 && killed == victim)
			break;
		stamp = -1;
	} while (now(CLOCK_MONOTONIC) < deadline);
	kill(hog, SIGKILL);
	waitpid(hog, NULL, 0);
	last = compare_clocks(kmsg);
	close(kmsg);
	if (stamp < 0 || when < 0)
		fprintf(out, "error process %d was not killed within %d s\n", victim, OOM_WAIT_S);
	else
		fprintf(out, "%" PRId64 " %" PRId64 " %d\n", between(first, last, when),
			uncertainty(first, last), victim);
}

/* ------------------------------------------------------------ requests */

static void run_command(FILE *out, const char *command)
{
	size_t size = 0, room = 0;
	char *output = NULL;
	FILE *pipe;
	int status;

	pipe = popen(command, "r");
	if (!pipe) {
		fprintf(out, "error %s: %s\n", command, strerror(errno));
		return;
	}
	do {
		if (size == room)
			output = realloc(output, room = room ? 2 * room : 4096);
		size += fread(output + size, 1, room - size, pipe);
	} while (!feof(pipe) && !ferror(pipe));
	status = pclose(pipe);
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	fprintf(out, "%d %zu\n", status, size);
	fwrite(output, 1, size, out);
	free(output);
}

static void send_signal(FILE *out, const char *signal, const char *name)
{
	int64_t before, after;
	pid_t pid = main_process(name);
	int number = signal_number(signal), rc;

	if (!pid) {
		fprintf(out, "error no process %s\n", name);
		return;
	}
	before = now(CLOCK_MONOTONIC);
	rc = kill(pid, number);
	after = now(CLOCK_MONOTONIC);
	if (rc)
		fprintf(out, "error kill %d: %s\n", pid, strerror(errno));
	else
		fprintf(out, "%" PRId64 " %" PRId64 " %d\n", before, after, pid);
}

/* A real-time task that takes its CPU for itself. */
static void hang(void)
{
	const struct sched_param priority = { .sched_priority = 50 };

	write_file("/proc/sys/kernel/sched_rt_runtime_us", "-1");
	sched_setscheduler(0, SCHED_FIFO, &priority);
	for (;;)
		;
}

static void end(FILE *out, const char *how)
{
	int64_t when = now(CLOCK_MONOTONIC) + END_AFTER_NS;
	const struct timespec until = { when / 1000000000, when % 1000000000 };

	fprintf(out, "%" PRId64 "\n", when);
	fflush(out);
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	if (!strcmp(how, "panic"))
		write_file("/proc/sysrq-trigger", "c");
	else if (!strcmp(how, "poweroff"))
		reboot(RB_POWER_OFF);
	else if (!strcmp(how, "reboot"))
		reboot(RB_AUTOBOOT);
	else if (!strcmp(how, "hang"))
		hang();
}

static void answer(FILE *out, const char *request)
{
	char a[64], b[64];

	if (!strcmp(request, "clock"))
		fprintf(out, "%" PRId64 " %" PRId64 "\n", now(CLOCK_MONOTONIC),
			now(CLOCK_REALTIME));
	else if (sscanf(request, "kill %63s %63s", a, b) == 2)
		send_signal(out, a, b);
	else if (!strcmp(request, "fill"))
		fprintf(out, "%d\n", spawn("filler", "0", fill_memory));
	else if (sscanf(request, "oom-other %63s", a) == 1)
		out_of_memory(out, a, 1);
	else if (sscanf(request, "oom %63s", a) == 1)
		out_of_memory(out, a, 0);
	else if (sscanf(request, "end %63s", a) == 1)
		end(out, a);
	else if (!strncmp(request, "sh ", 3))
		run_command(out, request + 3);
	else
		fprintf(out, "error unknown request: %s\n", request);
	fflush(out);
}

static void serve(int fd)
{
	static char request[65536];
	FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
	int one = 1;

	signal(SIGCHLD, SIG_DFL);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	while (in && out && fgets(request, sizeof(request), in)) {
		request[strcspn(request, "\n")] = 0;
		answer(out, request);
	}
	_exit(0);
}

int main(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, fd;

	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	oom_score(getpid(), "-1000");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 16)) {
		perror("labd");
		return 1;
	}
	for (;;) {
		fd = accept(listener, NULL, NULL);
		if (fd < 0)
			continue;
		if (!fork())
			serve(fd);
		close(fd);
	}
}
