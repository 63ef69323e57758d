/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The mounted file systems, known before one of them fails.
 *
 * Where a file system is mounted cannot be asked in a handler, and not for
 * certain after an error.  So a work item reads it from mountinfo whenever that
 * changes, and a handler only looks into the table that it has made.
 */
#ifndef VESPER_FS_ERROR_FS_TABLE_H
#define VESPER_FS_ERROR_FS_TABLE_H

#include <linux/types.h>

#include "vesper_abi.h"

/**
 * struct fs_table_entry - one mounted file system
 * @info: its super block's s_fs_info; NULL: not known
 * @dev: likewise s_dev
 * @type: name of its type; "" if process 1 does not see a mount
 * @disk: its super block's s_id; if that is not known the name of its source
 * @mount: where it is mounted, for the first time of several, as process 1 sees
 *	   it; if that does not fit its end, which begins with no "/"; or ""
 */
struct fs_table_entry {
	const void *info;
	dev_t dev;
	char type[VSP_FSTYPE_LEN];
	char disk[VSP_DISK_LEN];
	char mount[VSP_MOUNT_LEN];
};

/**
 * fs_table_start - make the table, and from now on keep it up to date
 *
 * May sleep: the table is there when it returns, if no file system holds that
 * up for long.
 *
 * Return: 0 or -errno.
 */
int fs_table_start(void);

/* The opposite.  Nobody looks anything up any more. */
void fs_table_stop(void);

/**
 * fs_table_find_dev - the file system of a device
 * @dev: its super block's s_dev
 *
 * In any context, within rcu_read_lock().
 *
 * Return: NULL if it is not known.
 */
const struct fs_table_entry *fs_table_find_dev(dev_t dev);

/**
 * fs_table_find_info - the file system that an s_fs_info belongs to
 * @type: name of its type
 * @info: its super block's s_fs_info
 *
 * Likewise.  If nobody's is known it is the only one of its type that is mounted.
 */
const struct fs_table_entry *fs_table_find_info(const char *type, const void *info);

#endif /* VESPER_FS_ERROR_FS_TABLE_H */
