// SPDX-License-Identifier: GPL-2.0-or-later
/* A real-time task that never sleeps, without a C library: small enough to be sent as text. */
#include <linux/sched.h>
#include <sys/syscall.h>

void _start(void)
{
	const int priority = 50;
	long result;

	__asm__ volatile("syscall" : "=a"(result)
			 : "0"(SYS_sched_setscheduler), "D"(0), "S"(SCHED_FIFO), "d"(&priority)
			 : "rcx", "r11", "memory");
	while (!result)
		;
	__asm__ volatile("syscall" : : "a"(SYS_exit), "D"(1) : "rcx", "r11");
}
