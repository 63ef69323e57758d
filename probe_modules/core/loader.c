// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loads and unloads modules without the guest's user space.
 *
 * Modules are loaded by a system call only, and that needs a task with an address
 * space.  The kernel starts such a task: the program helper.S, from a tmpfs that is
 * mounted nowhere.  So loading works even if PID 1 hangs and the root file system
 * has failed.  All checks of the kernel apply: signature, version, symbols, and
 * kernel.usermodehelper.bset, which may forbid it.
 */

#include <linux/cred.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/oom.h>
#include <linux/path.h>
#include <linux/sched/signal.h>
#include <linux/umh.h>

#include "core.h"

#define HELPER_NAME	"helper"
#define IMAGE_NAME	"image.ko"

/*
 * Memory that must be available before a module is loaded, in bytes: what the load
 * may need, and by how much the kernel's estimate of available memory may be wrong.
 * With less, the OOM killer could kill a process, which is a fault of the guest.
 */
#define LOAD_NEEDS	(8UL << 20)
#define LOAD_NEEDS_CPU	(256UL << 10)

/* Of a module that is in use. */
#define UNLOAD_TRIES	10
#define UNLOAD_PAUSE_MS	100

static struct vfsmount *loader_mnt;

#ifdef VSP_HAVE_FILE_OPEN_ROOT_PATH
static struct file *vsp_loader_open_file(const struct path *root, const char *name, umode_t mode)
{
	return file_open_root(root, name, O_CREAT | O_TRUNC | O_WRONLY, mode);
}
#else
static struct file *vsp_loader_open_file(const struct path *root, const char *name, umode_t mode)
{
	return file_open_root(root->dentry, root->mnt, name,
			      O_CREAT | O_TRUNC | O_WRONLY, mode);
}
#endif

static int vsp_loader_write_file(const char *name, const void *data, size_t len, umode_t mode)
{
	struct path root = { .mnt = loader_mnt, .dentry = loader_mnt->mnt_root };
	struct file *file;
	loff_t pos = 0;
	ssize_t done;

	file = vsp_loader_open_file(&root, name, mode);
	if (IS_ERR(file))
		return PTR_ERR(file);
	done = kernel_write(file, data, len, &pos);
	/* Close it now: a file open for writing can be neither executed nor loaded. */
	if (current->flags & PF_KTHREAD)
		__fput_sync(file);
	else
		fput(file);
	if (done < 0)
		return done;
	return done == len ? 0 : -ENOSPC;
}

#ifdef VSP_HAVE_FS_SEQLOCK
static void vsp_loader_lock_fs(struct fs_struct *fs)
{
	write_seqlock(&fs->seq);
}

static void vsp_loader_unlock_fs(struct fs_struct *fs)
{
	write_sequnlock(&fs->seq);
}
#else
static void vsp_loader_lock_fs(struct fs_struct *fs)
{
	spin_lock(&fs->lock);
	write_seqcount_begin(&fs->seq);
}

static void vsp_loader_unlock_fs(struct fs_struct *fs)
{
	write_seqcount_end(&fs->seq);
	spin_unlock(&fs->lock);
}
#endif

/* Runs in the helper's task before it executes.  The task has its own fs_struct. */
static int vsp_loader_init_helper(struct subprocess_info *info, struct cred *new)
{
	struct path root = { .mnt = loader_mnt, .dentry = loader_mnt->mnt_root };
	struct fs_struct *fs = current->fs;
	struct path old;

	/* The OOM killer shall kill this task, and no process of the guest. */
	current->signal->oom_score_adj = OOM_SCORE_ADJ_MAX;

	path_get(&root);
	vsp_loader_lock_fs(fs);
	old = fs->pwd;
	fs->pwd = root;
	vsp_loader_unlock_fs(fs);
	path_put(&old);
	return 0;
}

/* Return 0 or -errno of the helper's system call. */
static int vsp_loader_run_helper(char *const *args)
{
	char *argv[] = { HELPER_NAME, args[0], args[1], args[2], NULL };
	char *envp[] = { NULL };
	struct subprocess_info *info;
	int status;

	/* The kernel would run another program, or none, and report success. */
	if (IS_ENABLED(CONFIG_STATIC_USERMODEHELPER)) {
		pr_err("vesper: this kernel starts no helper (CONFIG_STATIC_USERMODEHELPER)\n");
		return -EPERM;
	}
	info = call_usermodehelper_setup(HELPER_NAME, argv, envp, GFP_KERNEL,
					 vsp_loader_init_helper, NULL, NULL);
	if (!info)
		return -ENOMEM;
	status = call_usermodehelper_exec(info, UMH_WAIT_PROC);
	if (status < 0)
		return status;
	if (status & 0x7f)	/* killed by a signal */
		return -EINTR;
	return -((status >> 8) & 0xff);
}

static int vsp_loader_check_memory(void)
{
	unsigned long needed = (LOAD_NEEDS + num_online_cpus() * LOAD_NEEDS_CPU) >> PAGE_SHIFT;
	long available = si_mem_available();

	if (available >= (long)needed)
		return 0;
	pr_warn("vesper: %ld kB of memory are available, loading a probe needs %lu kB\n",
		available << (PAGE_SHIFT - 10), needed << (PAGE_SHIFT - 10));
	return -ENOMEM;
}

int vsp_loader_load(const struct vsp_image *image)
{
	char *args[] = { "l", IMAGE_NAME, image->params };
	int err;

	err = vsp_loader_check_memory();
	if (err)
		return err;
	err = vsp_loader_write_file(IMAGE_NAME, image->data, image->len, 0600);
	if (!err)
		err = vsp_loader_run_helper(args);
	/* Free its memory. */
	vsp_loader_write_file(IMAGE_NAME, NULL, 0, 0600);
	return err;
}

/* A probe may be in use for a moment, as by a work item of its own: try again. */
int vsp_loader_unload(const char *name)
{
	char *args[] = { "u", (char *)name, NULL };
	int tries, err;

	for (tries = 0; tries < UNLOAD_TRIES; tries++) {
		if (tries)
			msleep(UNLOAD_PAUSE_MS);
		err = vsp_loader_run_helper(args);
		if (err != -EWOULDBLOCK)
			break;
	}
	return err;
}

int vsp_loader_init(void)
{
	struct file_system_type *type;
	int err;

	type = get_fs_type("tmpfs");
	if (!type)
		return -ENODEV;
	loader_mnt = kern_mount(type);
	module_put(type->owner);
	if (IS_ERR(loader_mnt))
		return PTR_ERR(loader_mnt);

	/* Written now: later the guest may have no free memory. */
	err = vsp_loader_write_file(HELPER_NAME, vsp_helper, vsp_helper_end - vsp_helper, 0700);
	if (err)
		kern_unmount(loader_mnt);
	return err;
}

void vsp_loader_exit(void)
{
	kern_unmount(loader_mnt);
}
