// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exports relay channels of probes to the host.
 *
 * An exported channel consists of an entry in the channel table, an index with
 * the write position of each CPU, and one region for each CPU's relay buffer.
 */

#include <linux/cpuhotplug.h>
#include <linux/err.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "core.h"

struct vsp_export __rcu *vsp_exports[VSP_MAX_CHANNELS];

/* Under vsp_lock. */
static struct vsp_shared table_shared;		/* struct vsp_table */
static u32 table_generation, next_generation;

static int cpuhp_state;

static struct vsp_export *vsp_export_locked(unsigned int slot)
{
	return rcu_dereference_protected(vsp_exports[slot], lockdep_is_held(&vsp_lock));
}

struct vsp_region vsp_export_table_region(void)
{
	return table_shared.region;
}

/* ------------------------------------------------------ channel table */

static struct vsp_table *vsp_export_channel_table(void)
{
	return table_shared.addr;
}

static void vsp_export_notify_table_change(void)
{
	/* Pairs with the host, which reads the generation before the entries. */
	virt_wmb();
	WRITE_ONCE(vsp_export_channel_table()->generation, ++table_generation);
	vsp_notify();
}

static void vsp_export_close_channel(unsigned int slot)
{
	WRITE_ONCE(vsp_export_channel_table()->channel[slot].state, VSP_CHANNEL_FREE);
	vsp_export_notify_table_change();
}

static void vsp_export_open_channel(const struct vsp_export *export)
{
	struct vsp_channel *channel = &vsp_export_channel_table()->channel[export->slot];

	WRITE_ONCE(channel->state, VSP_CHANNEL_FREE);
	/* A host that sees a part of the new entry must see that it is not open. */
	virt_wmb();
	channel->generation = export->generation;
	channel->subbuf_size = export->subbuf_size;
	channel->n_subbufs = export->n_subbufs;
	channel->nr_cpus = nr_cpu_ids;
	channel->index = export->index.region;
	memcpy(channel->modname, export->modname, sizeof(channel->modname));
	/* Pairs with the host's copy of the entry, which reads state first. */
	virt_wmb();
	WRITE_ONCE(channel->state, VSP_CHANNEL_OPEN);
	vsp_export_notify_table_change();
}

/* --------------------------------------------- to and from a transport */

/*
 * A CPU writes records to its own buffer, with interrupts off.  So the CPU itself
 * moves its buffer and its index, with interrupts off: no record is half written.
 */
struct vsp_export_move {
	struct vsp_export_cpu *cpu;
	void *to;
};

static void vsp_export_move_buffer_on_cpu(void *info)
{
	struct vsp_export_move *relocation = info;
	struct rchan_buf *buf = relocation->cpu->buf;
	size_t subbuf = buf->data - buf->start;

	memcpy(relocation->to, buf->start, (size_t)buf->page_count * PAGE_SIZE);
	buf->start = relocation->to;
	buf->data = buf->start + subbuf;
}

static void vsp_export_move_buffer(struct vsp_shared *shared, void *to)
{
	struct vsp_export_cpu *cpu = container_of(shared, struct vsp_export_cpu, buffer);
	struct vsp_export_move relocation = { cpu, to };

	if (cpu->buf)
		vsp_call_on(cpu->buf->cpu, vsp_export_move_buffer_on_cpu, &relocation);
}

static void vsp_export_move_index_on_cpu(void *info)
{
	struct vsp_export_move *relocation = info;
	struct vsp_index *to = relocation->to;

	*to = *relocation->cpu->index;
	relocation->cpu->index = to;
}

static void vsp_export_move_index(struct vsp_shared *shared, void *to)
{
	struct vsp_export *export = container_of(shared, struct vsp_export, index);
	struct vsp_index *index = to;
	unsigned int cpu;

	for_each_possible_cpu(cpu) {
		struct vsp_export_move relocation = { &export->cpu[cpu], &index[cpu] };

		vsp_call_on(cpu, vsp_export_move_index_on_cpu, &relocation);
	}
}

/* Relay frees the buffer's own memory: point a buffer that is being closed to it. */
static void vsp_export_return_buffer(struct vsp_export_cpu *cpu)
{
	if (!cpu->buf || !cpu->buf->finalized)
		return;
	cpu->buf->start = cpu->buffer.home;
	cpu->buf->data = cpu->buffer.home;
	cpu->buf = NULL;
}

/*
 * A probe has closed its channel before it ended the export.  Relay does not say
 * which channel, but has marked its buffers as finalized.  Relay holds its mutex
 * here, so the CPUs cannot be asked to move their buffers.  That is safe, since a
 * probe must not write to a channel that is being closed.
 */
void vsp_export_buffer_closed(void)
{
	unsigned int slot, cpu;

	mutex_lock(&vsp_lock);
	for (slot = 0; slot < VSP_MAX_CHANNELS; slot++) {
		struct vsp_export *export = vsp_export_locked(slot);

		for (cpu = 0; export && cpu < nr_cpu_ids; cpu++)
			vsp_export_return_buffer(&export->cpu[cpu]);
	}
	mutex_unlock(&vsp_lock);
}

/* ------------------------------------------------------- one channel */

/*
 * Share the buffer of a CPU.  A CPU that was never online has none: not an error.
 * If the sharing fails, the next transport tries again.
 */
static int vsp_export_share_cpu(struct vsp_export *export, unsigned int cpu)
{
	struct rchan_buf *buf = *per_cpu_ptr(export->rchan->buf, cpu);
	struct vsp_shared *shared = &export->cpu[cpu].buffer;
	int err;

	if (!buf)
		return 0;
	if (shared->pages) {
		err = shared->region.handle ? 0 : vsp_shared_connect(shared);
	} else {
		export->cpu[cpu].buf = buf;
		err = vsp_shared_init(shared, buf->page_array, buf->page_count,
				      buf->start, vsp_export_move_buffer);
		if (!shared->pages)
			export->cpu[cpu].buf = NULL;
	}
	export->cpu[cpu].index->buffer = shared->region;
	return err;
}

/* Warn only: neither the CPU nor the link to the host may fail for its records. */
static void vsp_export_try_to_share_cpu(struct vsp_export *export, unsigned int cpu)
{
	int err = vsp_export_share_cpu(export, cpu);

	if (err)
		pr_warn("vesper: %s: records of CPU %u stay in the guest: %d\n",
			export->modname, cpu, err);
}

static void vsp_export_free(struct vsp_export *export)
{
	void *index = export->index.home;
	unsigned int cpu;

	for (cpu = 0; cpu < nr_cpu_ids; cpu++)
		vsp_shared_release(&export->cpu[cpu].buffer);
	vsp_shared_release(&export->index);
	vfree(index);
	kvfree(export);
}

static struct vsp_export *vsp_export_create(struct rchan *rchan, const char *modname)
{
	size_t size = PAGE_ALIGN(nr_cpu_ids * sizeof(struct vsp_index));
	struct vsp_export *export;
	struct vsp_index *index;
	unsigned int cpu;
	int err;

	export = kvzalloc(struct_size(export, cpu, nr_cpu_ids), GFP_KERNEL);
	if (!export)
		return ERR_PTR(-ENOMEM);
	export->rchan = rchan;
	export->subbuf_size = rchan->subbuf_size;
	export->n_subbufs = rchan->n_subbufs;
	strscpy(export->modname, modname, sizeof(export->modname));

	index = vzalloc(size);
	if (!index) {
		err = -ENOMEM;
		goto free;
	}
	for_each_possible_cpu(cpu)
		export->cpu[cpu].index = &index[cpu];
	export->index.home = index;	/* vsp_export_free() frees it */
	err = vsp_shared_init_vmalloc(&export->index, index, size / PAGE_SIZE, true,
				      vsp_export_move_index);
	if (err)
		goto free;
	for_each_possible_cpu(cpu) {
		err = vsp_export_share_cpu(export, cpu);
		if (err)
			goto free;
	}
	return export;

free:
	vsp_export_free(export);
	return ERR_PTR(err);
}

static int vsp_export_check_channel(const struct rchan *rchan, const char *modname)
{
	size_t len;

	if (IS_ERR_OR_NULL(rchan) || IS_ERR_OR_NULL(modname))
		return -EINVAL;
	len = strnlen(modname, VSP_NAME_LEN);
	if (!len || len == VSP_NAME_LEN)
		return -EINVAL;
	if (rchan->is_global || rchan->subbuf_size % 8)
		return -EINVAL;
	/* A single sub-buffer would always be the one that is being overwritten. */
	if (rchan->n_subbufs < 2 || rchan->n_subbufs > VSP_MAX_SUBBUFS)
		return -EINVAL;
	if (rchan->alloc_size > VSP_MAX_REGION_PAGES * PAGE_SIZE)
		return -E2BIG;
	return 0;
}

/* Return a free slot, -EEXIST or -ENOSPC. */
static int vsp_export_find_slot(const struct rchan *rchan, const char *modname)
{
	int slot, free = -ENOSPC;

	for (slot = VSP_MAX_CHANNELS - 1; slot >= 0; slot--) {
		const struct vsp_export *export = vsp_export_locked(slot);

		if (!export)
			free = slot;
		else if (export->rchan == rchan || !strcmp(export->modname, modname))
			return -EEXIST;
	}
	return free;
}

int vsp_relay_export_start(struct rchan *rchan, const char *modname)
{
	struct vsp_export *export;
	int slot, err;

	err = vsp_export_check_channel(rchan, modname);
	if (err)
		return err;

	vsp_lock_cpus();
	slot = vsp_export_find_slot(rchan, modname);
	if (slot < 0) {
		err = slot;
		goto unlock;
	}
	export = vsp_export_create(rchan, modname);
	if (IS_ERR(export)) {
		err = PTR_ERR(export);
		goto unlock;
	}
	export->slot = slot;
	export->generation = ++next_generation;
	rcu_assign_pointer(vsp_exports[slot], export);
	vsp_export_open_channel(export);
unlock:
	vsp_unlock_cpus();
	return err;
}
EXPORT_SYMBOL_GPL(vsp_relay_export_start);

static bool vsp_export_remove(const char *modname)
{
	struct vsp_export *export = NULL;
	unsigned int slot;

	vsp_lock_cpus();
	for (slot = 0; slot < VSP_MAX_CHANNELS; slot++) {
		export = vsp_export_locked(slot);
		if (export && !strcmp(export->modname, modname))
			break;
		export = NULL;
	}
	if (export) {
		RCU_INIT_POINTER(vsp_exports[slot], NULL);
		vsp_export_close_channel(slot);
		synchronize_rcu();	/* wait for probes that are writing to its index */
		vsp_export_free(export);
	}
	vsp_unlock_cpus();
	return export;
}

void vsp_relay_export_end(const char *modname)
{
	if (IS_ERR_OR_NULL(modname))
		pr_warn("vesper: cannot end an export without a name\n");
	else if (!vsp_export_remove(modname))
		pr_warn("vesper: cannot end the export of %s, which is not exported\n", modname);
}
EXPORT_SYMBOL_GPL(vsp_relay_export_end);

/* ------------------------------------ CPU hotplug, modules, transports */

/*
 * Share the buffers of a CPU that comes online.  Relay has allocated them before,
 * at CPUHP_RELAY_PREPARE.  CPU hotplug holds the CPU lock, so vsp_lock is enough.
 */
static int vsp_export_cpu_online(unsigned int cpu)
{
	unsigned int slot;

	mutex_lock(&vsp_lock);
	for (slot = 0; slot < VSP_MAX_CHANNELS; slot++) {
		struct vsp_export *export = vsp_export_locked(slot);

		if (!export)
			continue;
		vsp_export_try_to_share_cpu(export, cpu);
		vsp_export_notify_table_change();
	}
	mutex_unlock(&vsp_lock);
	return 0;
}

/* Clean up after a module that goes without vsp_relay_export_end(). */
static int vsp_export_module_notify(struct notifier_block *nb, unsigned long state, void *data)
{
	struct module *module = data;

	if (state == MODULE_STATE_GOING && vsp_export_remove(module->name))
		pr_warn("vesper: %s was unloaded without vsp_relay_export_end()\n", module->name);
	return NOTIFY_DONE;
}

static struct notifier_block vsp_export_module_nb = { .notifier_call = vsp_export_module_notify };

/* On error the host does not see the channel, and says that it is missing. */
static void vsp_export_connect_channel(struct vsp_export *export)
{
	unsigned int cpu;
	int err;

	/* The index first.  With it, the host can read those buffers that are shared. */
	err = vsp_shared_connect(&export->index);
	if (err) {
		pr_warn("vesper: %s: records stay in the guest: %d\n", export->modname, err);
		return;
	}
	for_each_possible_cpu(cpu)
		vsp_export_try_to_share_cpu(export, cpu);
	vsp_export_open_channel(export);
}

/* Return an error only if the channel table itself cannot be shared. */
int vsp_export_connect(void)
{
	unsigned int slot;
	int err;

	err = vsp_shared_connect(&table_shared);
	if (err)
		return err;
	vsp_export_channel_table()->magic = VSP_TABLE_MAGIC;
	vsp_export_channel_table()->version = VSP_ABI_VERSION;
	for (slot = 0; slot < VSP_MAX_CHANNELS; slot++) {
		struct vsp_export *export = vsp_export_locked(slot);

		if (export)
			vsp_export_connect_channel(export);
	}
	return 0;
}

void vsp_export_disconnect(void)
{
	unsigned int slot, cpu;

	for (slot = 0; slot < VSP_MAX_CHANNELS; slot++) {
		struct vsp_export *export = vsp_export_locked(slot);

		if (!export)
			continue;
		vsp_export_close_channel(slot);
		for_each_possible_cpu(cpu) {
			vsp_shared_disconnect(&export->cpu[cpu].buffer);
			export->cpu[cpu].index->buffer.handle = 0;
		}
		vsp_shared_disconnect(&export->index);
	}
	vsp_shared_disconnect(&table_shared);
}

/* -------------------------------------------------------- init, exit */

int vsp_export_init(void)
{
	void *home;
	int err;

	BUILD_BUG_ON(sizeof(struct vsp_table) > VSP_PAGE_SIZE);
	BUILD_BUG_ON(PAGE_SIZE != VSP_PAGE_SIZE);

	home = vzalloc(PAGE_SIZE);
	if (!home)
		return -ENOMEM;
	mutex_lock(&vsp_lock);
	err = vsp_shared_init_vmalloc(&table_shared, home, 1, false, NULL);
	mutex_unlock(&vsp_lock);
	if (err)
		goto free_table;

	err = register_module_notifier(&vsp_export_module_nb);
	if (err)
		goto release_table;

	err = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "vesper:online",
					vsp_export_cpu_online, NULL);
	if (err < 0)
		goto unregister;
	cpuhp_state = err;
	return 0;

unregister:
	unregister_module_notifier(&vsp_export_module_nb);
release_table:
	mutex_lock(&vsp_lock);
	vsp_shared_release(&table_shared);
	mutex_unlock(&vsp_lock);
free_table:
	vfree(home);
	return err;
}

void vsp_export_exit(void)
{
	void *home = table_shared.home;
	unsigned int slot;

	cpuhp_remove_state_nocalls(cpuhp_state);
	unregister_module_notifier(&vsp_export_module_nb);
	mutex_lock(&vsp_lock);
	/* A module may have exported a channel under another module's name. */
	for (slot = 0; slot < VSP_MAX_CHANNELS; slot++) {
		if (vsp_export_locked(slot))
			vsp_export_free(vsp_export_locked(slot));
	}
	vsp_shared_release(&table_shared);
	mutex_unlock(&vsp_lock);
	vfree(home);
}
