// SPDX-License-Identifier: GPL-2.0-only
/*
 * For benchmarks: passes the places in the kernel where probes are.  Write
 * "POINT COUNT" to /proc/vsp_fire.  A POINT is
 *
 *	send_signal	sends SIGUSR1 to the writer, which should ignore it
 *	net_link	calls the notifiers of a device, link off and on
 *	a function	is called.  A kprobe of this module makes it return at once,
 *			so that nobody is killed and no file system is shut down.  It
 *			is registered before all others and so is called last.
 *	a tracepoint	calls all registered probes, as the kernel does where there
 *			are several
 *
 * Reading the file gives "fired POINT COUNT NS".  It also gives "offset NAME BYTES" of
 * members of structures, to describe events to ftrace.
 */

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/jbd2.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/oom.h>
#include <linux/proc_fs.h>
#include <linux/rtnetlink.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/timekeeping.h>
#include <linux/tracepoint.h>
#include <linux/uaccess.h>

#include "vesper_features.h"

static char fired[80];

/* ---------------------------------------------------------- arguments */

static struct oom_control the_oom = { .order = 3, .totalpages = 65536 };
static struct gendisk the_disk = { .major = 254, .disk_name = "vda" };
static struct block_device the_bdev = { .bd_disk = &the_disk };
static struct file_system_type the_type = { .name = "ext4" };
static struct super_block *the_sb;
static void *the_owner;	/* a file system's own structure */
static struct inode *the_inode;
static journal_t *the_journal;
static struct request_queue *the_queue;
static struct request *the_request;

static void fire_free_arguments(void)
{
	kfree(the_owner);
	kfree(the_sb);
	kfree(the_inode);
	kfree(the_journal);
	kfree(the_queue);
	kfree(the_request);
}

/* Allocated, since they are too large for the module itself. */
static int fire_make_arguments(void)
{
	the_owner = kzalloc(PAGE_SIZE, GFP_KERNEL);
	the_sb = kzalloc(sizeof(*the_sb), GFP_KERNEL);
	the_inode = kzalloc(sizeof(*the_inode), GFP_KERNEL);
	the_journal = kzalloc(sizeof(*the_journal), GFP_KERNEL);
	the_queue = kzalloc(sizeof(*the_queue), GFP_KERNEL);
	the_request = kzalloc(sizeof(*the_request), GFP_KERNEL);
	if (!the_owner || !the_sb || !the_inode || !the_journal || !the_queue || !the_request) {
		fire_free_arguments();
		return -ENOMEM;
	}
	the_sb->s_type = &the_type;
	the_inode->i_sb = the_sb;
	the_journal->j_inode = the_inode;
	the_journal->j_fs_dev = &the_bdev;
	the_request->q = the_queue;
#ifdef VSP_HAVE_REQUEST_RQ_DISK
	the_request->rq_disk = &the_disk;
#else
	the_queue->disk = &the_disk;
#endif
	return 0;
}

/* ---------------------------------------------------------- functions */

typedef long (*fire_function)(unsigned long a, unsigned long b, unsigned long c, unsigned long d);

static noinline notrace long fire_do_nothing(unsigned long a, unsigned long b, unsigned long c,
					     unsigned long d)
{
	return 0;
}

static int fire_skip_function(struct kprobe *kp, struct pt_regs *regs)
{
	regs->ip = (unsigned long)fire_do_nothing;
	return 1;
}

NOKPROBE_SYMBOL(fire_skip_function);

static struct kprobe skipped[] = {
	{ .symbol_name = "oom_kill_process", .pre_handler = fire_skip_function },
	{ .symbol_name = "taskstats_exit", .pre_handler = fire_skip_function },
	{ .symbol_name = "jbd2_journal_abort", .pre_handler = fire_skip_function },
	{ .symbol_name = "xfs_do_force_shutdown", .pre_handler = fire_skip_function },
	{ .symbol_name = "__btrfs_handle_fs_error", .pre_handler = fire_skip_function },
	{ .symbol_name = "print_cpu_stall_info", .pre_handler = fire_skip_function },
};

static fire_function fire_find_skipped(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(skipped); i++) {
		if (!strcmp(skipped[i].symbol_name, name))
			return (fire_function)skipped[i].addr;
	}
	return NULL;
}

static void fire_call_function(fire_function f, unsigned long a, unsigned long b,
			       unsigned long c, unsigned long d, unsigned int count)
{
	while (count--)
		f(a, b, c, d);
}

/* -------------------------------------------------------- tracepoints */

static struct tracepoint *hang_tracepoint, *error_tracepoint, *memory_tracepoint;

static void fire_find_tracepoint(struct tracepoint *tp, void *unused)
{
	if (!strcmp(tp->name, "sched_process_hang"))
		hang_tracepoint = tp;
	else if (!strcmp(tp->name, "block_rq_error"))
		error_tracepoint = tp;
	else if (!strcmp(tp->name, "memory_failure_event"))
		memory_tracepoint = tp;
}

static int fire_pass_tracepoint(const struct tracepoint *tp, unsigned long a, unsigned long b,
				unsigned long c, unsigned int count)
{
	int (*iterate)(void *unused, unsigned long a, unsigned long b, unsigned long c);

	if (!tp)
		return -ENOENT;
	iterate = tp->iterator;
	while (count--) {
		preempt_disable_notrace();
		iterate(NULL, a, b, c);
		preempt_enable_notrace();
	}
	return 0;
}

/* ----------------------------------------------------- real senders */

static int (*send)(int sig, struct kernel_siginfo *info, struct task_struct *task,
		   enum pid_type type);

/* do_send_sig_info() is not exported. */
static int fire_find_send(void)
{
	struct kprobe kprobe = { .symbol_name = "do_send_sig_info" };
	int err = register_kprobe(&kprobe);

	if (err)
		return err;
	send = (void *)kprobe.addr;
	unregister_kprobe(&kprobe);
	return 0;
}

static void fire_send_signals(unsigned int count)
{
	struct kernel_siginfo info;

	clear_siginfo(&info);
	info.si_signo = SIGUSR1;
	info.si_code = SI_USER;
	while (count--)
		send(SIGUSR1, &info, current, PIDTYPE_TGID);
}

static int fire_change_link(unsigned int count)
{
	struct net_device *dev;
	int err = -ENODEV;

	rtnl_lock();
	for_each_netdev(&init_net, dev) {
		if (!dev->dev.parent)
			continue;
		count &= ~1U;	/* even, so that the link ends as it was */
		while (count--) {
			change_bit(__LINK_STATE_NOCARRIER, &dev->state);
			call_netdevice_notifiers(NETDEV_CHANGE, dev);
		}
		err = 0;
		break;
	}
	rtnl_unlock();
	return err;
}

/* -------------------------------------------------------------- /proc */

static int fire_point(const char *point, unsigned int count)
{
	const unsigned long here = (unsigned long)__FILE__;
	fire_function f;

	the_oom.chosen = current;
	if (!strcmp(point, "send_signal")) {
		fire_send_signals(count);
		return 0;
	}
	if (!strcmp(point, "net_link"))
		return fire_change_link(count);
	if (!strcmp(point, "sched_process_hang"))
		return fire_pass_tracepoint(hang_tracepoint, (unsigned long)current, 0, 0, count);
	if (!strcmp(point, "block_rq_error"))
		return fire_pass_tracepoint(error_tracepoint, (unsigned long)the_request,
					    (__force u8)BLK_STS_IOERR, 4096, count);
	if (!strcmp(point, "memory_failure_event"))
		return fire_pass_tracepoint(memory_tracepoint, 0x1234, 1, 1, count);	/* failed */

	f = fire_find_skipped(point);
	if (!f)
		return -ENOENT;
	if (!strcmp(point, "oom_kill_process"))
		fire_call_function(f, (unsigned long)&the_oom, here, 0, 0, count);
	else if (!strcmp(point, "taskstats_exit"))
		fire_call_function(f, (unsigned long)current, 1, 0, 0, count);
	else if (!strcmp(point, "jbd2_journal_abort"))
		fire_call_function(f, (unsigned long)the_journal, -EIO, 0, 0, count);
	else if (!strcmp(point, "xfs_do_force_shutdown"))
		fire_call_function(f, (unsigned long)the_owner, 1, here, __LINE__, count);
	else if (!strcmp(point, "__btrfs_handle_fs_error"))
		fire_call_function(f, (unsigned long)the_owner, here, __LINE__, -EIO, count);
	else if (!strcmp(point, "print_cpu_stall_info"))
		fire_call_function(f, 0, 0, 0, 0, count);
	else
		return -EINVAL;
	return 0;
}

static ssize_t fire_write(struct file *file, const char __user *buf, size_t len, loff_t *offset)
{
	char line[64] = "", point[32];
	unsigned int count;
	u64 start, ns;
	int err;

	if (len >= sizeof(line) || copy_from_user(line, buf, len))
		return -EFAULT;
	if (sscanf(line, "%31s %u", point, &count) != 2)
		return -EINVAL;
	start = ktime_get_ns();
	err = fire_point(point, count);
	ns = ktime_get_ns() - start;
	if (err)
		return err;
	snprintf(fired, sizeof(fired), "fired %s %u %llu\n", point, count, ns);
	return len;
}

#define OFFSET(m, type, member) \
	seq_printf(m, "offset %s.%s %zu\n", #type, #member, offsetof(struct type, member))

static int fire_show(struct seq_file *m, void *unused)
{
	seq_puts(m, fired);
	OFFSET(m, task_struct, pid);
	OFFSET(m, task_struct, tgid);
	OFFSET(m, task_struct, comm);
	OFFSET(m, task_struct, cred);
	OFFSET(m, task_struct, real_parent);
	OFFSET(m, task_struct, group_leader);
	OFFSET(m, task_struct, signal);
	OFFSET(m, task_struct, mm);
	OFFSET(m, task_struct, exit_code);
	OFFSET(m, task_struct, start_time);
	OFFSET(m, cred, uid);
	OFFSET(m, signal_struct, oom_score_adj);
	OFFSET(m, signal_struct, flags);
	OFFSET(m, mm_struct, total_vm);
	OFFSET(m, mm_struct, rss_stat);
	OFFSET(m, mm_struct, pgtables_bytes);
	OFFSET(m, kernel_siginfo, si_code);
	OFFSET(m, kernel_siginfo, _sifields);
	OFFSET(m, oom_control, order);
	OFFSET(m, oom_control, gfp_mask);
	OFFSET(m, oom_control, constraint);
	OFFSET(m, oom_control, totalpages);
	OFFSET(m, oom_control, chosen);
	OFFSET(m, journal_s, j_flags);
	OFFSET(m, journal_s, j_fs_dev);
	OFFSET(m, journal_s, j_inode);
	OFFSET(m, block_device, bd_dev);
	OFFSET(m, block_device, bd_disk);
	OFFSET(m, gendisk, disk_name);
	OFFSET(m, inode, i_sb);
	OFFSET(m, super_block, s_type);
	OFFSET(m, net_device, ifindex);
	OFFSET(m, net_device, name);
	OFFSET(m, net_device, state);
	return 0;
}

static int fire_open(struct inode *inode, struct file *file)
{
	return single_open(file, fire_show, NULL);
}

static const struct proc_ops fire_ops = {
	.proc_open = fire_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
	.proc_write = fire_write,
};

static int __init fire_init(void)
{
	unsigned int i;
	int err;

	for_each_kernel_tracepoint(fire_find_tracepoint, NULL);
	err = fire_find_send();
	if (err)
		return err;
	err = fire_make_arguments();
	if (err)
		return err;
	for (i = 0; i < ARRAY_SIZE(skipped); i++) {
		err = register_kprobe(&skipped[i]);
		if (err) {
			pr_err("vsp_fire: no kprobe on %s: %d\n", skipped[i].symbol_name, err);
			goto unregister;
		}
	}
	if (!proc_create("vsp_fire", 0600, NULL, &fire_ops)) {
		err = -ENOMEM;
		goto unregister;
	}
	return 0;

unregister:
	while (i--)
		unregister_kprobe(&skipped[i]);
	fire_free_arguments();
	return err;
}
module_init(fire_init);

static void __exit fire_exit(void)
{
	unsigned int i;

	remove_proc_entry("vsp_fire", NULL);
	for (i = 0; i < ARRAY_SIZE(skipped); i++)
		unregister_kprobe(&skipped[i]);
	fire_free_arguments();
}
module_exit(fire_exit);

MODULE_DESCRIPTION("VESPER tests: passes the places at which probes are, for benchmarks");
MODULE_LICENSE("GPL");
