/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside vesper.ko.
 *
 *	main.c		module init and exit
 *	transport.c	the link to the host comes and goes
 *	region.c	pieces of memory shared with the host
 *	cchan.c		C-chan: requests of the host and their dispatch
 *	image.c		the memory a probe's image arrives in
 *	loader.c	loads and unloads modules without user space
 *	helper.S	the program that makes the loader's system call
 *	klog.c		the kernel's own line about a module
 *	export.c	relay export: channel table, index, CPU hotplug
 *	record.c	the probes' hot path
 *	probe.c		what all probes do alike
 *	crash_log.c	what the kernel says on an oops or a panic
 *	heartbeat.c	signs of life
 *	processes.c	which services have a process
 */
#ifndef VESPER_CORE_H
#define VESPER_CORE_H

#include <linux/compiler.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/smp.h>
#include <linux/types.h>

#include "vesper.h"
#include "vesper_transport.h"

/*
 * Protects the transport, all regions, the channel table and the exports.
 * Held for short times only: never while a module is loaded or unloaded.
 *
 * Regions with content may be moved only with the CPUs held as they are, too:
 * vsp_lock_cpus() takes both.  (Who brings a CPU up or down has that lock.)
 */
extern struct mutex vsp_lock;

void vsp_lock_cpus(void);
void vsp_unlock_cpus(void);

/* ------------------------------------------------------- transport.c */

extern struct vsp_transport __rcu *vsp_transport;

/* The registered transport or NULL.  Under vsp_lock. */
struct vsp_transport *vsp_transport_locked(void);

/* Tell the host to look, if there is one.  In any context. */
void vsp_notify(void);

/* ---------------------------------------------------------- region.c */

struct vsp_shared;

/*
 * Copies the region's content to @to, from where it is, and lets all who write
 * it write there.  When it returns nobody writes to the old place any more.
 */
typedef void vsp_move_t(struct vsp_shared *shared, void *to);

/**
 * struct vsp_shared - pages, and the region that they are to the host
 * @home: the same, as addresses of the kernel
 * @addr: where the content is: @home, or memory of the transport
 * @move: NULL: the content need not be kept when that changes
 * @region: as the host is told; handle 0 while not shared
 */
struct vsp_shared {
	struct page **pages;
	unsigned int nr_pages;
	bool writable;
	void *home;
	void *addr;
	vsp_move_t *move;
	struct vsp_region region;
};

/*
 * Hold the pages and, with a transport, share them.  Under vsp_lock_cpus(), or,
 * if nothing is moved, vsp_lock.  Also if the sharing fails they are held, until
 * vsp_shared_release(): only with -ENOMEM perhaps not (@shared->pages is NULL).
 */
int vsp_shared_init(struct vsp_shared *shared, struct page *const *pages,
		    unsigned int nr_pages, void *home, vsp_move_t *move);
int vsp_shared_init_vmalloc(struct vsp_shared *shared, void *home,
			    unsigned int nr_pages, bool writable, vsp_move_t *move);
/* The opposite of both; nothing happens if neither was done. */
void vsp_shared_release(struct vsp_shared *shared);
/* A transport has come, is about to go. */
int vsp_shared_connect(struct vsp_shared *shared);
void vsp_shared_disconnect(struct vsp_shared *shared);

/*
 * Call @func on that CPU, with interrupts off; in place of a CPU that is
 * offline, here.  Under vsp_lock_cpus().
 */
void vsp_call_on(unsigned int cpu, smp_call_func_t func, void *info);

/* ----------------------------------------------------------- cchan.c */

int vsp_cchan_init(void);
void vsp_cchan_exit(void);
/* A new C-chan page: counters from 0.  Under vsp_lock. */
void vsp_cchan_reset(struct vsp_cchan *cchan);

/* ----------------------------------------------------------- image.c */

/**
 * struct vsp_image - a probe's image, private memory of the guest
 * @data: of @len bytes
 * @params: module parameters
 */
struct vsp_image {
	void *data;
	size_t len;
	char *params;
};

int vsp_image_alloc(u32 pages, struct vsp_region *region);
int vsp_image_free(u64 handle);
/* Under vsp_lock. */
void vsp_image_drop(void);
/* Copy, end the sharing, check.  The memory is gone whatever the outcome. */
int vsp_image_take(const struct vsp_msg_load *load, struct vsp_image *image);
void vsp_image_put(struct vsp_image *image);

/* ---------------------------------------------------------- loader.c */

extern const char vsp_helper[], vsp_helper_end[];	/* helper.S */

int vsp_loader_init(void);
void vsp_loader_exit(void);
int vsp_loader_load(const struct vsp_image *image);
int vsp_loader_unload(const char *name);

/* ------------------------------------------------------------ klog.c */

u64 vsp_klog_mark(void);
void vsp_klog_find(u64 mark, const char *name, bool any, char *text, size_t size);
/* The end of the log.  For kmsg dumpers: in any context.  Returns its length. */
size_t vsp_klog_end(char *text, size_t size);

/* ------------------------------------------------------- crash_log.c */

int vsp_crash_log_init(void);
void vsp_crash_log_exit(void);
/* Under vsp_lock. */
void vsp_crash_log_connect(void);
void vsp_crash_log_disconnect(void);
struct vsp_region vsp_crash_log_region(void);

/* ------------------------------------------------------- heartbeat.c */

int vsp_heartbeat_init(void);
void vsp_heartbeat_exit(void);
/* Under vsp_lock. */
void vsp_heartbeat_connect(void);
void vsp_heartbeat_disconnect(void);
struct vsp_region vsp_heartbeat_region(void);

/* ------------------------------------------------------- processes.c */

/* The main processes of some names.  May sleep. */
void vsp_processes_find(const struct vsp_msg_processes *request, struct vsp_msg_processes *reply);

/* ---------------------------------------------------------- export.c */

struct vsp_export_cpu {
	struct vsp_index *index;	/* changed by that CPU only */
	struct rchan_buf *buf;
	struct vsp_shared buffer;	/* @buf's memory */
	u64 seq;	/* of the next record; by that CPU only */
};

struct vsp_export {
	struct rchan *rchan;
	unsigned int slot;	/* in the channel table */
	u32 generation;
	u32 subbuf_size;
	u32 n_subbufs;
	char modname[VSP_NAME_LEN];
	struct vsp_shared index;	/* struct vsp_index[nr_cpu_ids] */
	struct vsp_export_cpu cpu[];	/* [nr_cpu_ids] */
};

extern struct vsp_export __rcu *vsp_exports[VSP_MAX_CHANNELS];

int vsp_export_init(void);
void vsp_export_exit(void);
/* Under vsp_lock. */
int vsp_export_connect(void);
void vsp_export_disconnect(void);
struct vsp_region vsp_export_table_region(void);

/* Relay is about to free one. */
void vsp_export_buffer_closed(void);

#endif /* VESPER_CORE_H */
