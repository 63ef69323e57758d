// SPDX-License-Identifier: GPL-2.0-only
/*
 * C-chan: takes the host's requests and answers them, one after the other.
 *
 * Each request is copied once, and the copy is checked before it is used.  The
 * guest's counters are kept here and are never read back from the shared page.
 */

#define INCLUDE_VERMAGIC	/* linux/vermagic.h cannot be included without it */
#include <linux/utsname.h>
#include <linux/vermagic.h>

#include <linux/random.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "core.h"

union vsp_msg {
	u8 bytes[VSP_MSG_SIZE];
	struct vsp_msg_hdr hdr;
	struct vsp_msg_hello hello;
	struct vsp_msg_mem mem;
	struct vsp_msg_load load;
	struct vsp_msg_unload unload;
	struct vsp_msg_result result;
	struct vsp_msg_processes processes;
};

static struct workqueue_struct *vsp_cchan_wq;
static struct work_struct vsp_cchan_work;
static u64 boot_id;

/* Under vsp_lock. */
static u32 requests_taken, replies_given;
static u32 taken_before, read_before;	/* counters of both rings when the last kick ended */
static u32 cchan_epoch;		/* changes with each transport */

void vsp_cchan_reset(struct vsp_cchan *cchan)
{
	memset(cchan, 0, sizeof(*cchan));
	cchan->magic = VSP_CCHAN_MAGIC;
	cchan->version = VSP_ABI_VERSION;
	requests_taken = 0;
	replies_given = 0;
	taken_before = 0;
	read_before = 0;
	cchan_epoch++;
}

/* ---------------------------------------------------------- dispatch */

static void vsp_cchan_do_hello(struct vsp_msg_hello *reply)
{
	BUILD_BUG_ON(sizeof(VERMAGIC_STRING) > VSP_VERMAGIC_LEN);
	BUILD_BUG_ON(sizeof(init_utsname()->release) != VSP_RELEASE_LEN);

	reply->nr_cpus = nr_cpu_ids;
	mutex_lock(&vsp_lock);
	reply->table = vsp_export_table_region();
	reply->words = vsp_crash_log_region();
	reply->life = vsp_heartbeat_region();
	mutex_unlock(&vsp_lock);
	reply->boot_id = boot_id;
	strscpy(reply->release, init_utsname()->release, sizeof(reply->release));
	/* Without the blank at its end, as modinfo(8) shows it. */
	strscpy(reply->vermagic, VERMAGIC_STRING, sizeof(reply->vermagic));
	strim(reply->vermagic);
}

static bool vsp_cchan_is_module_name(const char name[VSP_NAME_LEN])
{
	size_t len = strnlen(name, VSP_NAME_LEN);

	return len && len < VSP_NAME_LEN && !strpbrk(name, "/\n ");
}

static int vsp_cchan_do_load(const struct vsp_msg_load *load, struct vsp_msg_result *reply)
{
	struct vsp_image image;
	u64 mark;
	int err;

	if (!vsp_cchan_is_module_name(load->name)) {
		vsp_image_free(load->region.handle);
		return -EINVAL;
	}
	err = vsp_image_take(load, &image);
	if (err)
		return err;
	mark = vsp_klog_mark();
	err = vsp_loader_load(&image);
	vsp_klog_find(mark, load->name, err != 0, reply->text, sizeof(reply->text));
	vsp_image_put(&image);
	return err;
}

static int vsp_cchan_do_unload(const struct vsp_msg_unload *unload, struct vsp_msg_result *reply)
{
	u64 mark;
	int err;

	if (!vsp_cchan_is_module_name(unload->name))
		return -EINVAL;
	mark = vsp_klog_mark();
	err = vsp_loader_unload(unload->name);
	vsp_klog_find(mark, unload->name, false, reply->text, sizeof(reply->text));
	return err;
}

static int vsp_cchan_dispatch(const union vsp_msg *request, union vsp_msg *reply)
{
	/* A host of another version gets it, too, and learns the guest's version. */
	if (request->hdr.type == VSP_MSG_HELLO)
		vsp_cchan_do_hello(&reply->hello);
	if (request->hdr.version != VSP_ABI_VERSION)
		return -EPROTO;

	switch (request->hdr.type) {
	case VSP_MSG_HELLO:
		return 0;
	case VSP_MSG_MEM_ALLOC:
		return vsp_image_alloc(request->mem.region.pages, &reply->mem.region);
	case VSP_MSG_MEM_FREE:
		return vsp_image_free(request->mem.region.handle);
	case VSP_MSG_LOAD:
		return vsp_cchan_do_load(&request->load, &reply->result);
	case VSP_MSG_UNLOAD:
		return vsp_cchan_do_unload(&request->unload, &reply->result);
	case VSP_MSG_PROCESSES:
		vsp_processes_find(&request->processes, &reply->processes);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

/* ------------------------------------------------------------- rings */

/* Take the next request, unless there is none or no room for its reply. */
static bool vsp_cchan_take_request(union vsp_msg *request, u32 *epoch)
{
	struct vsp_transport *transport;
	struct vsp_cchan_ring *ring;
	bool taken = false;
	u32 waiting, unread;

	mutex_lock(&vsp_lock);
	transport = vsp_transport_locked();
	if (!transport)
		goto unlock;

	ring = &transport->cchan->to_guest;
	waiting = READ_ONCE(ring->prod) - requests_taken;
	unread = replies_given - READ_ONCE(transport->cchan->to_host.cons);
	if (!waiting || unread >= VSP_CCHAN_SLOTS)
		goto unlock;
	if (waiting > VSP_CCHAN_SLOTS) {
		pr_warn_once("vesper: C-chan: the host is %u requests ahead, of %u slots\n",
			     waiting, VSP_CCHAN_SLOTS);
		goto unlock;
	}

	/* Pairs with the host, which stores the slot before prod. */
	virt_rmb();
	memcpy(request, ring->slot[requests_taken % VSP_CCHAN_SLOTS], sizeof(*request));
	/* Pairs with the host, which reads cons before it stores the slot again. */
	virt_mb();
	WRITE_ONCE(ring->cons, ++requests_taken);
	*epoch = cchan_epoch;
	taken = true;
unlock:
	mutex_unlock(&vsp_lock);
	if (taken)
		vsp_notify();
	return taken;
}

static void vsp_cchan_send_reply(const union vsp_msg *reply, u32 epoch)
{
	struct vsp_transport *transport;
	struct vsp_cchan_ring *ring;

	mutex_lock(&vsp_lock);
	transport = vsp_transport_locked();
	if (transport && epoch == cchan_epoch) {
		ring = &transport->cchan->to_host;
		memcpy(ring->slot[replies_given % VSP_CCHAN_SLOTS], reply, sizeof(*reply));
		/* Pairs with the host, which reads prod before the slot. */
		virt_wmb();
		WRITE_ONCE(ring->prod, ++replies_given);
	}
	mutex_unlock(&vsp_lock);
	vsp_notify();
}

static void vsp_cchan_end_kick(void)
{
	struct vsp_transport *transport;
	bool useful;
	u32 read;

	mutex_lock(&vsp_lock);
	transport = vsp_transport_locked();
	if (transport && transport->ops->kick_done) {
		read = READ_ONCE(transport->cchan->to_host.cons);
		useful = requests_taken != taken_before || read != read_before;
		taken_before = requests_taken;
		read_before = read;
		transport->ops->kick_done(transport, useful);
	}
	mutex_unlock(&vsp_lock);
}

static void vsp_cchan_run(struct work_struct *work)
{
	/* Too large for the stack.  Only this work item uses them. */
	static union vsp_msg request, reply;
	u32 epoch;

	while (vsp_cchan_take_request(&request, &epoch)) {
		memset(&reply, 0, sizeof(reply));
		reply.hdr.type = request.hdr.type;
		reply.hdr.seq = request.hdr.seq;
		reply.hdr.version = VSP_ABI_VERSION;
		reply.hdr.status = vsp_cchan_dispatch(&request, &reply);
		vsp_cchan_send_reply(&reply, epoch);
		cond_resched();
	}
	vsp_cchan_end_kick();
}

void vsp_cchan_kick(void)
{
	queue_work(vsp_cchan_wq, &vsp_cchan_work);
}
EXPORT_SYMBOL_GPL(vsp_cchan_kick);

int vsp_cchan_init(void)
{
	BUILD_BUG_ON(sizeof(union vsp_msg) != VSP_MSG_SIZE);
	BUILD_BUG_ON(sizeof(struct vsp_cchan) > VSP_PAGE_SIZE);

	get_random_bytes(&boot_id, sizeof(boot_id));
	INIT_WORK(&vsp_cchan_work, vsp_cchan_run);
	/* MEM_RECLAIM: it has a rescuer thread, and works when no thread can be created. */
	vsp_cchan_wq = alloc_ordered_workqueue("vesper", WQ_MEM_RECLAIM);
	return vsp_cchan_wq ? 0 : -ENOMEM;
}

void vsp_cchan_exit(void)
{
	destroy_workqueue(vsp_cchan_wq);
}
