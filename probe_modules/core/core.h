/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Internal interfaces of vesper.ko.
 *
 *	main.c		module init and exit
 *	transport.c	registers the link to the host
 *	region.c	memory regions shared with the host
 *	cchan.c		C-chan: takes the host's requests and dispatches them
 *	image.c		receives the image of a probe
 *	loader.c	loads and unloads modules without user space
 *	helper.S	the program that makes the loader's system call
 *	klog.c		reads the kernel's log
 *	export.c	exports relay channels: channel table, index, CPU hotplug
 *	suspend.c	hands the guest over when the hypervisor suspends it
 *	record.c	writes records: the hot path of all probes
 *	probe.c		starts and ends a probe: channel, export, hooks
 *	crash_log.c	saves stack and log of an oops or a panic
 *	heartbeat.c	counts timer interrupts and thread runs of each CPU
 *	processes.c	finds the main process of each service
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
 * To move a region that has content, the set of online CPUs must not change
 * either: vsp_lock_cpus() takes cpus_read_lock() first, then vsp_lock.  CPU
 * hotplug callbacks run with the CPU lock held, and take vsp_lock alone.
 */
extern struct mutex vsp_lock;

void vsp_lock_cpus(void);
void vsp_unlock_cpus(void);

/* ------------------------------------------------------- transport.c */

extern struct vsp_transport __rcu *vsp_transport;

/* The registered transport or NULL.  Under vsp_lock. */
struct vsp_transport *vsp_transport_locked(void);

/* Notify the host, if a transport is registered.  In any context. */
void vsp_notify(void);

/* ---------------------------------------------------------- region.c */

struct vsp_shared;

/*
 * Copy the content of a region to @to, and make all writers write to @to.
 * When it returns, nobody writes to the old place any more.
 */
typedef void vsp_move_t(struct vsp_shared *shared, void *to);

/**
 * struct vsp_shared - pages of this kernel that the host may map as a region
 * @pages: the pages, on each of which a reference is held
 * @nr_pages: number of @pages
 * @writable: the host may write to them
 * @home: kernel address of @pages
 * @addr: where the content is now: @home, or memory of the transport
 * @move: called when @addr changes; NULL if the content may be lost then
 * @region: the region as the host sees it; handle 0 while not shared
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
 * Take references on the pages and, if a transport is registered, share them.
 * Under vsp_lock_cpus(); vsp_lock is enough if @move is NULL, or if no transport
 * can be registered yet.
 *
 * If the sharing fails, the references are kept until vsp_shared_release().
 * With -ENOMEM there may be none: @shared->pages is NULL then.
 */
int vsp_shared_init(struct vsp_shared *shared, struct page *const *pages,
		    unsigned int nr_pages, void *home, vsp_move_t *move);
int vsp_shared_init_vmalloc(struct vsp_shared *shared, void *home,
			    unsigned int nr_pages, bool writable, vsp_move_t *move);
/* Undo either of them.  Does nothing if neither was called. */
void vsp_shared_release(struct vsp_shared *shared);
/* Share the region over the transport that was registered. */
int vsp_shared_connect(struct vsp_shared *shared);
/* Stop sharing the region: the transport is about to be unregistered. */
void vsp_shared_disconnect(struct vsp_shared *shared);

/*
 * Call @func on a CPU, with interrupts off.  If that CPU is offline, call it on
 * the present one.  Under vsp_lock_cpus().
 */
void vsp_call_on(unsigned int cpu, smp_call_func_t func, void *info);

/* ----------------------------------------------------------- cchan.c */

int vsp_cchan_init(void);
void vsp_cchan_exit(void);
/* Initialise the C-chan page of a new transport.  Under vsp_lock. */
void vsp_cchan_reset(struct vsp_cchan *cchan);

/* ----------------------------------------------------------- image.c */

/**
 * struct vsp_image - a private copy of a probe's image
 * @data: the module, in ELF
 * @len: bytes of @data
 * @params: the module's parameters, a string behind @data
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
/*
 * Copy the image that the host has written, and check the copy.  The shared
 * memory is freed in any case.
 */
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
/* Copy the end of the log and return its length.  For kmsg dumpers: in any context. */
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

/* Find the main process of each name of @request.  May sleep. */
void vsp_processes_find(const struct vsp_msg_processes *request, struct vsp_msg_processes *reply);

/* ---------------------------------------------------------- export.c */

struct vsp_export_cpu {
	struct vsp_index *index;	/* only this CPU changes the pointer */
	struct rchan_buf *buf;
	struct vsp_shared buffer;	/* the memory of @buf */
	u64 seq;	/* of the next record; only this CPU writes it */
};

struct vsp_export {
	struct rchan *rchan;
	unsigned int slot;	/* index into the channel table */
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

/* Relay is about to free a buffer. */
void vsp_export_buffer_closed(void);

/* --------------------------------------------------------- suspend.c */

void vsp_suspend_init(void);
void vsp_suspend_exit(void);

#endif /* VESPER_CORE_H */
