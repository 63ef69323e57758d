// SPDX-License-Identifier: GPL-2.0-only
/*
 * For tests and benchmarks: keeps a guest busy.
 *
 *	vsp_busy storm SECONDS	send itself signals without a pause, and ignore them
 *	vsp_busy pingpong COUNT	two processes wake each other by SIGUSR1
 *	vsp_busy service COUNT	server and worker: work, then a signal, for each
 *	vsp_busy forks COUNT	fork, exec, wait, as a shell does
 *	vsp_busy eat KB		keep allocating memory until KB are available
 *
 * It prints one line: "NAME COUNT done in NANOSECONDS".
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void busy_die(const char *what)
{
	fprintf(stderr, "vsp_busy: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long busy_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void busy_report(const char *name, long count, long long begin)
{
	printf("%s %ld done in %lld\n", name, count, busy_now() - begin);
}

static void busy_storm(long seconds)
{
	long long begin = busy_now(), end = begin + seconds * 1000000000LL;
	pid_t self = getpid();
	long count = 0;
	int i;

	signal(SIGUSR1, SIG_IGN);
	while (busy_now() < end) {
		for (i = 0; i < 100; i++)
			kill(self, SIGUSR1);
		count += 100;
	}
	busy_report("storm", count, begin);
}

/* --------------------------------------------------------- signals */

/* The work for one request: read a part of a file and add up its bytes. */
static unsigned long busy_work(void)
{
	static unsigned char data[32768];
	unsigned long sum = 0;
	ssize_t len, i;
	int fd;

	fd = open("/proc/self/exe", O_RDONLY);
	if (fd < 0)
		busy_die("open");
	len = read(fd, data, sizeof(data));
	close(fd);
	for (i = 0; i < len; i++)
		sum += data[i];
	return sum;
}

/* Each signal is waited for before the next one is sent, so that none is lost. */
static void busy_exchange_signals(const char *name, long count, int with_work)
{
	unsigned long sum = 0;
	pid_t other, parent;
	long long begin;
	sigset_t set;
	long i;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	parent = getpid();
	begin = busy_now();
	other = fork();
	if (other < 0)
		busy_die("fork");
	if (!other) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (i = 0; i < count; i++) {
			if (sigwaitinfo(&set, NULL) < 0)
				busy_die("wait");
			if (with_work)
				sum += busy_work();
			kill(parent, SIGUSR1);
		}
		_exit(sum == 1);
	}
	for (i = 0; i < count; i++) {
		if (with_work)
			sum += busy_work();
		kill(other, SIGUSR1);
		if (sigwaitinfo(&set, NULL) < 0)
			busy_die("wait");
	}
	waitpid(other, NULL, 0);
	busy_report(name, 2 * count, begin);
	exit(sum == 1);
}

/* --------------------------------------------------------------- forks */

static void busy_fork_often(long count)
{
	long long begin = busy_now();
	pid_t pid;
	long i;

	for (i = 0; i < count; i++) {
		pid = fork();
		if (pid < 0)
			busy_die("fork");
		if (!pid) {
			execl("/proc/self/exe", "vsp_busy", "nothing", NULL);
			_exit(127);
		}
		waitpid(pid, NULL, 0);
	}
	busy_report("forks", count, begin);
}

/* -------------------------------------------------------------- memory */

static long busy_read_available_kb(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	char line[128];
	long kb = -1;

	while (file && kb < 0 && fgets(line, sizeof(line), file))
		sscanf(line, "MemAvailable: %ld", &kb);
	if (!file || kb < 0)
		busy_die("MemAvailable");
	fclose(file);
	return kb;
}

/* Does not return: memory that becomes free is allocated, too. */
static void busy_eat_memory(long leave)
{
	const size_t piece = 65536;
	int told = 0;

	for (;;) {
		while (busy_read_available_kb() > leave) {
			if (mmap(NULL, piece, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) == MAP_FAILED)
				busy_die("mmap");
		}
		if (!told++) {
			printf("eaten all but %ld kB\n", leave);
			fflush(stdout);
		}
		usleep(50000);
	}
}

int main(int argc, char **argv)
{
	long number = argc == 3 ? strtol(argv[2], NULL, 0) : 0;

	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 0;
	if (argc != 3 || number <= 0)
		return 2;
	if (!strcmp(argv[1], "storm"))
		busy_storm(number);
	else if (!strcmp(argv[1], "pingpong"))
		busy_exchange_signals("pingpong", number, 0);
	else if (!strcmp(argv[1], "service"))
		busy_exchange_signals("service", number, 1);
	else if (!strcmp(argv[1], "forks"))
		busy_fork_often(number);
	else if (!strcmp(argv[1], "eat"))
		busy_eat_memory(number);
	else
		return 2;
	return 0;
}
