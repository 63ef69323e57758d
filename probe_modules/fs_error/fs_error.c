// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe fs_error: a file system refuses writes because of an error.
 *
 *	ext4	jbd2_journal_abort(journal, errno): ext4 becomes read-only when its
 *		journal is aborted.  An error after which it stays writable
 *		(errors=continue) does not get here.
 *	xfs	xfs_do_force_shutdown(mp, flags, file, line).  In newer versions errors
 *		of the log use xlog_force_shutdown(log, flags) instead.
 *	btrfs	__btrfs_handle_fs_error(fs_info, function, line, errno, ...)
 *
 * These functions are mostly in modules, which may be loaded after the probe.  So a
 * module notifier registers the kprobe when the module is loaded.  The first argument
 * of xfs and btrfs is the s_fs_info of their super block.
 */

#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/jbd2.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>

#include "fs_table.h"
#include "vesper.h"

/* SHUTDOWN_* of fs/xfs/xfs_mount.h */
#define XFS_META_IO_ERROR	(1u << 0)
#define XFS_LOG_IO_ERROR	(1u << 1)
#define XFS_FORCE_UMOUNT	(1u << 2)

/* Many tasks may find an error in one file system at the same time. */
static unsigned int max_per_s = 5;
module_param(max_per_s, uint, 0644);
MODULE_PARM_DESC(max_per_s, "record at most so many in a second; 0: all (5)");

static struct vsp_probe probe;
static struct vsp_limit limit;

/* ------------------------------------------------------------ handlers */

static void fs_error_record(struct vsp_fs_error *rec, const char *fstype)
{
	rec->rec.len = sizeof(*rec);
	rec->rec.event = VSP_EVENT_FS_ERROR;
	strscpy(rec->fstype, fstype, sizeof(rec->fstype));
	vsp_record_write(probe.channel, &rec->rec);
}

static void fs_error_record_info(struct vsp_fs_error *rec, const char *fstype, const void *info)
{
	const struct fs_table_entry *entry;

	if (!vsp_limit_allows(&limit, READ_ONCE(max_per_s), &rec->left_out))
		return;
	rcu_read_lock();
	entry = fs_table_find_info(fstype, info);
	if (entry) {
		rec->dev = entry->dev;
		strscpy(rec->disk, entry->disk, sizeof(rec->disk));
		strscpy(rec->mount, entry->mount, sizeof(rec->mount));
	}
	rcu_read_unlock();
	fs_error_record(rec, fstype);
}

static int fs_error_on_journal_abort(struct kprobe *kp, struct pt_regs *regs)
{
	const journal_t *journal = (void *)regs_get_kernel_argument(regs, 0);
	struct vsp_fs_error rec = {
		.error = abs((int)regs_get_kernel_argument(regs, 1)),
	};
	const struct fs_table_entry *entry;

	if (READ_ONCE(journal->j_flags) & JBD2_ABORT ||
	    !vsp_limit_allows(&limit, READ_ONCE(max_per_s), &rec.left_out))
		return 0;
	rec.dev = journal->j_fs_dev->bd_dev;
	snprintf(rec.disk, sizeof(rec.disk), "%pg", journal->j_fs_dev);
	rcu_read_lock();
	entry = fs_table_find_dev(rec.dev);
	if (entry)
		strscpy(rec.mount, entry->mount, sizeof(rec.mount));
	rcu_read_unlock();
	/* The journal may belong to ocfs2; an external journal has no inode. */
	fs_error_record(&rec, journal->j_inode ? journal->j_inode->i_sb->s_type->name : "jbd2");
	return 0;
}

static int fs_error_on_xfs_shutdown(struct kprobe *kp, struct pt_regs *regs)
{
	u32 flags = regs_get_kernel_argument(regs, 1);
	const char *file = (void *)regs_get_kernel_argument(regs, 2);
	struct vsp_fs_error rec = {
		.line = regs_get_kernel_argument(regs, 3),
	};

	if (flags & XFS_FORCE_UMOUNT)
		rec.error = ESHUTDOWN;
	else if (flags & (XFS_META_IO_ERROR | XFS_LOG_IO_ERROR))
		rec.error = EIO;
	else
		rec.error = EUCLEAN;	/* EFSCORRUPTED of xfs */
	strscpy(rec.where, kbasename(file), sizeof(rec.where));
	fs_error_record_info(&rec, "xfs", (void *)regs_get_kernel_argument(regs, 0));
	return 0;
}

static int fs_error_on_xfs_log_shutdown(struct kprobe *kp, struct pt_regs *regs)
{
	/* struct xlog begins with its struct xfs_mount *. */
	void **log = (void *)regs_get_kernel_argument(regs, 0);
	u32 flags = regs_get_kernel_argument(regs, 1);
	struct vsp_fs_error rec = { .error = EIO };

	/* All others are recorded by xfs_do_force_shutdown(), with more details. */
	if (!(flags & XFS_LOG_IO_ERROR) || flags & XFS_FORCE_UMOUNT)
		return 0;
	strscpy(rec.where, "log", sizeof(rec.where));
	fs_error_record_info(&rec, "xfs", *log);
	return 0;
}

static int fs_error_on_btrfs_error(struct kprobe *kp, struct pt_regs *regs)
{
	const char *function = (void *)regs_get_kernel_argument(regs, 1);
	struct vsp_fs_error rec = {
		.line = regs_get_kernel_argument(regs, 2),
		.error = abs((int)regs_get_kernel_argument(regs, 3)),
	};

	strscpy(rec.where, function, sizeof(rec.where));
	fs_error_record_info(&rec, "btrfs", (void *)regs_get_kernel_argument(regs, 0));
	return 0;
}

/* ------------------------------------------ loading of file systems */

struct fs_error_target {
	const char *module;
	struct kprobe kprobe;
	bool registered;	/* under targets_lock */
};

static struct fs_error_target targets[] = {
	{ .module = "jbd2", .kprobe = { .symbol_name = "jbd2_journal_abort",
					.pre_handler = fs_error_on_journal_abort } },
	{ .module = "xfs", .kprobe = { .symbol_name = "xfs_do_force_shutdown",
				       .pre_handler = fs_error_on_xfs_shutdown } },
	{ .module = "xfs", .kprobe = { .symbol_name = "xlog_force_shutdown",
				       .pre_handler = fs_error_on_xfs_log_shutdown } },
	{ .module = "btrfs", .kprobe = { .symbol_name = "__btrfs_handle_fs_error",
					 .pre_handler = fs_error_on_btrfs_error } },
};

static DEFINE_MUTEX(targets_lock);

static void fs_error_register_target(struct fs_error_target *target)
{
	int err;

	if (target->registered)
		return;
	/* register_kprobe() refuses what an earlier registration has left here. */
	target->kprobe.addr = NULL;
	target->kprobe.flags = 0;
	err = register_kprobe(&target->kprobe);
	target->registered = !err;
	/* -ENOENT: the module is not loaded, or has no such function. */
	if (err && err != -ENOENT)
		pr_warn("%s: no kprobe on %s: %d\n", probe.name,
			target->kprobe.symbol_name, err);
}

static void fs_error_unregister_target(struct fs_error_target *target)
{
	if (target->registered)
		unregister_kprobe(&target->kprobe);
	target->registered = false;
}

static int fs_error_module_notify(struct notifier_block *nb, unsigned long state, void *data)
{
	const struct module *module = data;
	unsigned int i;

	if (state != MODULE_STATE_COMING && state != MODULE_STATE_GOING)
		return NOTIFY_DONE;
	mutex_lock(&targets_lock);
	for (i = 0; i < ARRAY_SIZE(targets); i++) {
		if (strcmp(module->name, targets[i].module))
			continue;
		if (state == MODULE_STATE_COMING)
			fs_error_register_target(&targets[i]);
		else
			fs_error_unregister_target(&targets[i]);
	}
	mutex_unlock(&targets_lock);
	return NOTIFY_DONE;
}

static struct notifier_block module_nb = { .notifier_call = fs_error_module_notify };

static int fs_error_attach(void)
{
	unsigned int i;
	int err;

	err = fs_table_start();
	if (err)
		return err;
	err = register_module_notifier(&module_nb);
	if (err) {
		fs_table_stop();
		return err;
	}
	mutex_lock(&targets_lock);
	for (i = 0; i < ARRAY_SIZE(targets); i++)
		fs_error_register_target(&targets[i]);
	mutex_unlock(&targets_lock);
	return 0;
}

static void fs_error_detach(void)
{
	unsigned int i;

	unregister_module_notifier(&module_nb);
	mutex_lock(&targets_lock);
	for (i = 0; i < ARRAY_SIZE(targets); i++)
		fs_error_unregister_target(&targets[i]);
	mutex_unlock(&targets_lock);
	fs_table_stop();
}

static struct vsp_probe probe = {
	.name = KBUILD_MODNAME,
	.attach = fs_error_attach,
	.detach = fs_error_detach,
};

vsp_probe_module();

MODULE_DESCRIPTION("VESPER probe: file systems that an error has made read-only");
MODULE_LICENSE("GPL");
