/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Between the core (vesper.ko) and a hypervisor's frontend.
 *
 * The frontend owns the link to the host: the C-chan page, the notification
 * in both directions, and the way to share pages.  It registers when the host
 * has activated the guest and unregisters when the link goes: on
 * deactivation, on resume after save or migration, on removal.  The core
 * keeps the probes' channels meanwhile and shares them anew with the next.
 */
#ifndef VESPER_TRANSPORT_H
#define VESPER_TRANSPORT_H

#include <linux/types.h>

#include "vesper_abi.h"
#include "vesper_features.h"

struct page;
struct vsp_transport;

/**
 * struct vsp_transport_ops - what a frontend can do
 *
 * Either it lets the host map any of the guest's pages (@share, @unshare), or
 * it has memory of its own that the host sees (@alloc, @free): then the core
 * moves there what is to be shared, and back when the link goes.
 *
 * @share: let the host map @n pages; *@handle gets what it needs to do so
 *	   (never 0).  Takes references of its own on the pages.  May sleep,
 *	   never waits for the host.  0 or -errno.
 * @unshare: end that; drops the references when the host no longer has the
 *	     pages mapped.
 * @alloc: @n pages of zeros, side by side, and their *@handle (never 0); NULL:
 *	   there is no more room.
 * @free: give them back; nobody writes there any more, or not for longer than
 *	  until synchronize_rcu() returns.
 * @notify: tell the host to look.  In any context, under any lock.
 */
struct vsp_transport_ops {
	int (*share)(struct vsp_transport *transport, struct page *const *pages,
		     unsigned int n, bool writable, u64 *handle);
	void (*unshare)(struct vsp_transport *transport, u64 handle);
	void *(*alloc)(struct vsp_transport *transport, unsigned int n, u64 *handle);
	void (*free)(struct vsp_transport *transport, u64 handle, unsigned int n);
	void (*notify)(struct vsp_transport *transport);
};

/**
 * struct vsp_transport - one link to the host
 * @ops: see there
 * @cchan: C-chan page, shared by the frontend, writable for the host
 */
struct vsp_transport {
	const struct vsp_transport_ops *ops;
	struct vsp_cchan *cchan;
};

/**
 * vsp_transport_register - a host is there
 * @transport: lives until vsp_transport_unregister() has returned
 *
 * Prepares the C-chan page and shares what there is to share.
 *
 * Return: 0, -EBUSY if another transport is registered, @share's error, or
 * -ENOSPC if @alloc has no room.
 */
int vsp_transport_register(struct vsp_transport *transport);

/**
 * vsp_transport_unregister - the host has gone
 * @transport: a registered one; if it is not, nothing happens
 *
 * Unshares everything.  When it returns nobody writes into the transport's
 * memory or notifies.  Does not wait for a module that is being loaded.
 */
void vsp_transport_unregister(struct vsp_transport *transport);

/* The host has notified: look at C-chan.  From an interrupt handler, too. */
void vsp_cchan_kick(void);

#endif /* VESPER_TRANSPORT_H */
