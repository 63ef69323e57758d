/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences between kernels: the meaning of each VSP_HAVE_... of features.mk.
 *
 * In parentheses: the version of Linux that brought the change.  Stable kernels and
 * distributions have some changes earlier.
 *
 * BLOCK_RQ_ERROR	the tracepoint block_rq_error (5.18)
 * CGROUP_ANCESTORS	a cgroup has an array of its ancestors (6.1)
 * FILE_OPEN_ROOT_PATH	file_open_root() takes a path in place of a dentry and
 *			a mount (5.12)
 * FS_SEQLOCK		fs_struct's seq is a seqlock, and there is no lock
 *			beside it (6.18)
 * GRANT_END_PAGE	gnttab_end_foreign_access() takes a page (5.19) ...
 * GRANT_END_READONLY	... or a flag and an address (before 5.18), or else an
 *			address only
 * HEX_H		hex2bin() is in linux/hex.h, no longer in linux/kernel.h (6.4)
 * HRTIMER_SETUP	hrtimer_setup() in place of hrtimer_init() (6.13)
 * KMSG_DUMP_DETAIL	a kmsg dumper gets a structure, not the reason (6.12)
 * KMSG_DUMP_ITER	readers of the kernel's log have an iterator (5.12)
 * KMSG_DUMPER_ITER	the iterator has another name, and dumpers get it (5.10-rt)
 * MEMORY_FAILURE_H	memory_failure_event is in trace/events/memory-failure.h,
 *			no longer in ras/ras_event.h (6.19)
 * PANIC_NOTIFIER_H	panic_notifier_list is in linux/panic_notifier.h, no longer
 *			in linux/kernel.h (5.14)
 * RELAY_CONST_CALLBACKS relay_open() takes constant callbacks (5.11)
 * RELAY_PREV_PADDING	relay's subbuf_start() gets a 4th argument (before 6.17)
 * REQUEST_RQ_DISK	a request knows its disk itself (before 5.17)
 * SEND_SIGNAL_LOCKED	__send_signal() is called __send_signal_locked() (5.19)
 * SYSCORE_DATA		register_syscore() in place of register_syscore_ops(),
 *			whose callbacks have an argument (6.19, 6.12.114)
 * XENBUS_REMOVE_VOID	xenbus_driver's remove() returns void (6.2, 6.1.y)
 */
#ifndef VESPER_FEATURES_H
#define VESPER_FEATURES_H

#include <linux/hrtimer.h>

#ifdef VSP_HAVE_HEX_H
#include <linux/hex.h>
#endif
#ifdef VSP_HAVE_PANIC_NOTIFIER_H
#include <linux/panic_notifier.h>
#endif

#ifdef VSP_HAVE_RELAY_CONST_CALLBACKS
#define VSP_RELAY_CONST const
#else
#define VSP_RELAY_CONST
#endif

#ifndef VSP_HAVE_HRTIMER_SETUP
static inline void hrtimer_setup(struct hrtimer *timer,
				 enum hrtimer_restart (*function)(struct hrtimer *),
				 clockid_t clock_id, enum hrtimer_mode mode)
{
	hrtimer_init(timer, clock_id, mode);
	timer->function = function;
}
#endif

#endif /* VESPER_FEATURES_H */
