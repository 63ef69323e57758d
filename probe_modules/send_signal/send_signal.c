// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe send_signal: a signal is sent.  Records its sender, its target, and whether it
 * will kill the target.
 *
 * It uses a kprobe on __send_signal_locked(sig, info, t, type, force) in
 * kernel/signal.c, which was called __send_signal() before Linux 5.19.  All signals
 * pass it, except those of POSIX timers.  It is called with the target's siglock held.
 */

#include <linux/sched/signal.h>
#include <linux/signal.h>
#include <linux/stddef.h>

#include "vesper.h"
#include "vesper_process.h"

#define BIT_OF(sig)	(1UL << ((sig) - 1))

/* Signals of timers, of job control, and of language runtimes to their threads. */
#define QUIET_DEFAULT	(BIT_OF(SIGCHLD) | BIT_OF(SIGCONT) | BIT_OF(SIGURG) | \
			 BIT_OF(SIGWINCH) | BIT_OF(SIGALRM) | BIT_OF(SIGVTALRM) | \
			 BIT_OF(SIGPROF) | BIT_OF(SIGIO) | ~(BIT_OF(SIGRTMIN) - 1))

/* Number of threads that are searched for one that takes the signal. */
#define MAX_THREADS	4096

static unsigned long quiet = QUIET_DEFAULT;
module_param(quiet, ulong, 0644);
MODULE_PARM_DESC(quiet, "bit mask, 1 << (signal - 1): recorded only if they kill");

static bool fatal_only;
module_param(fatal_only, bool, 0644);
MODULE_PARM_DESC(fatal_only, "record only signals that kill");

/* Some services wake each other by signals, thousands in a second. */
static unsigned int max_per_s = 100;
module_param(max_per_s, uint, 0644);
MODULE_PARM_DESC(max_per_s, "record at most so many in a second that do not kill (100)");

/* A user can kill processes of his own as fast as he can fork. */
static unsigned int max_users_per_s = 10;
module_param(max_users_per_s, uint, 0644);
MODULE_PARM_DESC(max_users_per_s, "record at most so many in a second that kill one user's own (10)");

/* Length of a record whose signal does not kill. */
#define SHORT_LEN	offsetof(struct vsp_send_signal, who)

/* Stopping a service may take long, but not forever. */
static unsigned int asked_s = VSP_ASKED_S;
module_param(asked_s, uint, 0644);
MODULE_PARM_DESC(asked_s, "a request to end counts for so many seconds; 0: forever (7200)");

static struct vsp_probe probe;
static struct vsp_limit limit;
static struct vsp_users users;
static struct vsp_limit searches;
static struct vsp_asked asked;

/* Arguments of __send_signal_locked(). */
struct send_signal_args {
	int sig;
	struct kernel_siginfo *info;
	struct task_struct *target;
	enum pid_type type;
	bool force;
};

/* ------------------------------------------------------ will it kill? */

/* As wants_signal() in kernel/signal.c, but also true if the thread takes it later. */
static bool send_signal_can_take(int sig, struct task_struct *task)
{
	if (sigismember(&task->blocked, sig) || sigismember(&task->real_blocked, sig))
		return false;
	if (task->flags & PF_EXITING)
		return false;
	return sig == SIGKILL || !(task->jobctl & (JOBCTL_STOP_PENDING | JOBCTL_TRAP_STOP));
}

/* Find the thread that will take the signal, as complete_signal() does. */
static struct task_struct *send_signal_find_taker(const struct send_signal_args *args)
{
	struct task_struct *task;
	int count = 0;

	if (send_signal_can_take(args->sig, args->target))
		return args->target;
	if (args->type == PIDTYPE_PID)
		return NULL;
	for_each_thread(args->target, task) {
		if (send_signal_can_take(args->sig, task))
			return task;
		if (++count == MAX_THREADS)
			break;
	}
	return NULL;
}

/* An init, of the system or of a namespace, ignores signals from inside. */
static bool send_signal_is_unkillable(const struct send_signal_args *args)
{
	if (!(args->target->signal->flags & SIGNAL_UNKILLABLE))
		return false;
	return !(args->force && args->sig == SIGKILL) || is_global_init(args->target);
}

/* Return VSP_SIG_FATAL, VSP_SIG_TRACED, or 0 if the target will live. */
static u32 send_signal_predict_fate(const struct send_signal_args *args)
{
	struct task_struct *target = args->target;
	struct task_struct *taker;

	if (target->flags & PF_KTHREAD)
		return 0;
	/* An earlier signal is killing it already. */
	if (target->signal->flags & SIGNAL_GROUP_EXIT ||
	    sigismember(&target->pending.signal, SIGKILL))
		return 0;
	if (!sig_fatal(target, args->sig) || send_signal_is_unkillable(args))
		return 0;
	taker = send_signal_find_taker(args);
	if (!taker)
		return 0;
	if (args->sig != SIGKILL && (target->ptrace || taker->ptrace))
		return VSP_SIG_TRACED;
	return VSP_SIG_FATAL;
}

/* ------------------------------------------------------------- record */

static void send_signal_fill_info(struct vsp_send_signal *rec, const struct send_signal_args *args)
{
	const struct kernel_siginfo *info = args->info;

	if (info == SEND_SIG_NOINFO) {
		rec->code = SI_USER;
	} else if (info == SEND_SIG_PRIV) {
		rec->code = SI_KERNEL;
		rec->flags |= VSP_SIG_FROM_KERNEL;
	} else {
		rec->code = info->si_code;
		if (info->si_code > 0)
			rec->flags |= VSP_SIG_FROM_KERNEL;
	}
	if (rec->code <= 0 || rec->code >= SI_KERNEL)
		return;

	switch (args->sig) {
	case SIGSEGV:
	case SIGBUS:
	case SIGILL:
	case SIGFPE:
	case SIGTRAP:
		rec->addr = (unsigned long)info->si_addr;
		rec->flags |= VSP_SIG_ADDR;
	}
}

static void send_signal_fill_sender(struct vsp_send_signal *rec)
{
	if (vsp_is_interrupted()) {
		rec->flags |= VSP_SIG_IN_IRQ;
		return;
	}
	rec->sender_pid = current->tgid;
	rec->sender_tid = current->pid;
	rec->sender_uid = __kuid_val(current_uid());
	vsp_copy_comm(rec->sender_comm, current);
}

static void send_signal_fill_target(struct vsp_send_signal *rec, const struct task_struct *target)
{
	const struct task_struct *parent;

	rec->pid = target->pid;
	rec->tgid = target->tgid;
	vsp_copy_comm(rec->comm, target);
	rcu_read_lock();
	rec->uid = __kuid_val(__task_cred(target)->uid);
	vsp_copy_comm(rec->leader_comm, target->group_leader);
	parent = rcu_dereference(target->real_parent);
	rec->parent_pid = parent->tgid;
	/* A thread of another name may have forked it. */
	vsp_copy_comm(rec->parent_comm, parent->group_leader);
	rcu_read_unlock();
}

/* Signals that kill are limited only for users' own processes; others are limited. */
static bool send_signal_is_within_limits(const struct send_signal_args *args, u32 flags,
					 u32 *left_out)
{
	if (!(flags & VSP_SIG_FATAL))
		return vsp_limit_allows(&limit, READ_ONCE(max_per_s), left_out);
	if (!vsp_users_allow(&users, args->target->group_leader, READ_ONCE(max_users_per_s),
			     left_out))
		return false;
	*left_out += atomic_xchg(&limit.left_out, 0);
	return true;
}

/* Only for signals that kill, since it takes as long as all the rest. */
static void send_signal_fill_who(struct vsp_send_signal *rec, const struct send_signal_args *args)
{
	struct task_struct *leader = args->target->group_leader;

	memset((u8 *)rec + SHORT_LEN, 0, sizeof(*rec) - SHORT_LEN);
	rcu_read_lock();
	vsp_fill_who(&rec->who, leader);
	vsp_fill_age(&rec->who, &rec->age_ms, &rec->elder_pid, leader, &searches);
	rcu_read_unlock();
	if (vsp_was_asked(&asked, leader, READ_ONCE(asked_s)))
		rec->flags |= VSP_SIG_ASKED;
}

/* Not inlined: the large record on the stack costs nothing if none is written. */
static noinline void send_signal_record(const struct send_signal_args *args, u32 flags)
{
	struct vsp_send_signal rec;

	memset(&rec, 0, SHORT_LEN);
	if (!send_signal_is_within_limits(args, flags, &rec.left_out))
		return;
	rec.rec.len = SHORT_LEN;
	rec.rec.event = VSP_EVENT_SEND_SIGNAL;
	rec.sig = args->sig;
	rec.flags = flags;
	if (args->type != PIDTYPE_PID)
		rec.flags |= VSP_SIG_GROUP;
	send_signal_fill_info(&rec, args);
	send_signal_fill_sender(&rec);
	send_signal_fill_target(&rec, args->target);
	if (flags & VSP_SIG_FATAL) {
		send_signal_fill_who(&rec, args);
		rec.rec.len = sizeof(rec);
	}
	vsp_record_write(probe.channel, &rec.rec);
}

static int send_signal_on_send(struct kprobe *kp, struct pt_regs *regs)
{
	struct send_signal_args args = {
		.sig = regs_get_kernel_argument(regs, 0),
		.info = (struct kernel_siginfo *)regs_get_kernel_argument(regs, 1),
		.target = (struct task_struct *)regs_get_kernel_argument(regs, 2),
		.type = regs_get_kernel_argument(regs, 3),
		.force = (u8)regs_get_kernel_argument(regs, 4),
	};
	u32 flags;

	if (!valid_signal(args.sig) || !args.sig)
		return 0;
	flags = send_signal_predict_fate(&args);
	if (flags & VSP_SIG_FATAL || !(fatal_only || quiet & BIT_OF(args.sig)))
		send_signal_record(&args, flags);
	/* After the record: a process was not asked before its first signal. */
	if (vsp_asks_to_end(args.sig) && !vsp_is_interrupted())
		vsp_note_asked(&asked, args.target->group_leader, args.info);
	return 0;
}

NOKPROBE_SYMBOL(send_signal_on_send);

static struct kprobe kprobes[] = {
	{ .symbol_name = VSP_SEND_SIGNAL, .pre_handler = send_signal_on_send },
};

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.kprobes = kprobes,
	.n_kprobes = ARRAY_SIZE(kprobes),
};

vsp_probe_module();

MODULE_DESCRIPTION("VESPER probe: signals, their senders, and whether they kill");
MODULE_LICENSE("GPL");
