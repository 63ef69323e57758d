// SPDX-License-Identifier: GPL-2.0-only
/*
 * Heartbeats: each CPU counts its timer interrupts, and the runs of a thread that
 * the timer wakes.  The host reads both counters.
 *
 * The timer is pinned to its CPU, and wakes it from tickless idle: an idle CPU must
 * not look like one that hangs.  The thread has the highest priority of the normal
 * scheduling class.  So a loaded CPU runs it in time, but a CPU that never runs
 * normal tasks does not.
 *
 * Heartbeats are counted while a transport is registered, whether or not a host
 * reads them.  Without a transport the threads sleep and no timer runs.  Each thread
 * starts its CPU's timer, and each timer stops itself.  So neither connecting nor
 * disconnecting waits for a CPU, which may hang.
 */

#include <linux/cpu.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/smpboot.h>
#include <linux/timekeeping.h>
#include <linux/vmalloc.h>

#include "core.h"

static struct vsp_shared heartbeat_shared;		/* struct vsp_life; under vsp_lock */

/* Where the CPU counts.  It writes, and moves, its entry with interrupts off. */
static DEFINE_PER_CPU(struct vsp_life_cpu *, heartbeat_entry);

static DEFINE_PER_CPU(struct task_struct *, heartbeat_thread);
static DEFINE_PER_CPU(struct hrtimer, heartbeat_timer);
static DEFINE_PER_CPU(bool, heartbeat_due);

static bool heartbeat_wanted;	/* a transport is registered; set under vsp_lock */

/* Interrupts off. */
static void vsp_heartbeat_set_state(unsigned int cpu, enum vsp_life_state state)
{
	WRITE_ONCE(per_cpu(heartbeat_entry, cpu)->state, state);
}

static enum hrtimer_restart vsp_heartbeat_tick(struct hrtimer *timer)
{
	struct vsp_life_cpu *mine = __this_cpu_read(heartbeat_entry);

	if (!READ_ONCE(heartbeat_wanted)) {
		vsp_heartbeat_set_state(smp_processor_id(), VSP_LIFE_NONE);
		return HRTIMER_NORESTART;
	}
	WRITE_ONCE(mine->irq_ns, ktime_get_mono_fast_ns());
	WRITE_ONCE(mine->irqs, mine->irqs + 1);
	__this_cpu_write(heartbeat_due, true);
	wake_up_process(__this_cpu_read(heartbeat_thread));
	hrtimer_forward_now(timer, ms_to_ktime(VSP_LIFE_PERIOD_MS));
	return HRTIMER_RESTART;
}

/* The following functions run in the CPU's own thread. */

static int vsp_heartbeat_should_run(unsigned int cpu)
{
	return READ_ONCE(per_cpu(heartbeat_due, cpu));
}

/* Interrupts are off, so the timer of this CPU cannot fire in between. */
static void vsp_heartbeat_start_timer(unsigned int cpu)
{
	struct hrtimer *timer = per_cpu_ptr(&heartbeat_timer, cpu);
	unsigned long flags;

	local_irq_save(flags);
	if (READ_ONCE(heartbeat_wanted) && !hrtimer_active(timer)) {
		vsp_heartbeat_set_state(cpu, VSP_LIFE_SHOWN);
		hrtimer_start(timer, ms_to_ktime(VSP_LIFE_PERIOD_MS),
			      HRTIMER_MODE_REL_PINNED_HARD);
	}
	local_irq_restore(flags);
}

static void vsp_heartbeat_stop_timer(unsigned int cpu)
{
	unsigned long flags;

	hrtimer_cancel(per_cpu_ptr(&heartbeat_timer, cpu));
	local_irq_save(flags);
	vsp_heartbeat_set_state(cpu, VSP_LIFE_NONE);
	local_irq_restore(flags);
}

static void vsp_heartbeat_run(unsigned int cpu)
{
	struct vsp_life_cpu *mine;
	unsigned long flags;

	WRITE_ONCE(per_cpu(heartbeat_due, cpu), false);
	vsp_heartbeat_start_timer(cpu);
	local_irq_save(flags);
	mine = per_cpu(heartbeat_entry, cpu);
	WRITE_ONCE(mine->run_ns, ktime_get_mono_fast_ns());
	WRITE_ONCE(mine->runs, mine->runs + 1);
	local_irq_restore(flags);
}

static void vsp_heartbeat_setup(unsigned int cpu)
{
	struct hrtimer *timer = per_cpu_ptr(&heartbeat_timer, cpu);

	set_user_nice(current, MIN_NICE);
	hrtimer_setup(timer, vsp_heartbeat_tick, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	vsp_heartbeat_start_timer(cpu);
}

static void vsp_heartbeat_cleanup(unsigned int cpu, bool online)
{
	vsp_heartbeat_stop_timer(cpu);
}

static struct smp_hotplug_thread vsp_heartbeat_threads = {
	.store = &heartbeat_thread,
	.thread_should_run = vsp_heartbeat_should_run,
	.thread_fn = vsp_heartbeat_run,
	.setup = vsp_heartbeat_setup,
	.cleanup = vsp_heartbeat_cleanup,
	.park = vsp_heartbeat_stop_timer,
	.unpark = vsp_heartbeat_start_timer,
	.thread_comm = "vesper/%u",
};

/* Return the entry of a CPU.  The entries follow the head. */
static struct vsp_life_cpu *vsp_heartbeat_entry(void *life, unsigned int cpu)
{
	return (struct vsp_life_cpu *)((struct vsp_life *)life + 1) + cpu;
}

static void vsp_heartbeat_write_head(struct vsp_life *life)
{
	life->magic = VSP_LIFE_MAGIC;
	life->version = VSP_LIFE_VERSION;
	life->period_ms = VSP_LIFE_PERIOD_MS;
	life->nr_cpus = nr_cpu_ids;
}

struct vsp_heartbeat_move {
	unsigned int cpu;
	struct vsp_life_cpu *to;
};

static void vsp_heartbeat_move_on_cpu(void *info)
{
	struct vsp_heartbeat_move *relocation = info;

	*relocation->to = *per_cpu(heartbeat_entry, relocation->cpu);
	per_cpu(heartbeat_entry, relocation->cpu) = relocation->to;
}

static void vsp_heartbeat_move(struct vsp_shared *shared, void *to)
{
	unsigned int cpu;

	vsp_heartbeat_write_head(to);
	for_each_possible_cpu(cpu) {
		struct vsp_heartbeat_move relocation = { cpu, vsp_heartbeat_entry(to, cpu) };

		vsp_call_on(cpu, vsp_heartbeat_move_on_cpu, &relocation);
	}
}

void vsp_heartbeat_connect(void)
{
	unsigned int cpu;
	int err = vsp_shared_connect(&heartbeat_shared);

	if (err) {
		pr_warn("vesper: cannot share heartbeats: %d\n", err);
		return;
	}
	WRITE_ONCE(heartbeat_wanted, true);
	for_each_online_cpu(cpu) {
		WRITE_ONCE(per_cpu(heartbeat_due, cpu), true);
		wake_up_process(per_cpu(heartbeat_thread, cpu));
	}
}

void vsp_heartbeat_disconnect(void)
{
	WRITE_ONCE(heartbeat_wanted, false);
	vsp_shared_disconnect(&heartbeat_shared);
}

struct vsp_region vsp_heartbeat_region(void)
{
	return heartbeat_shared.region;
}

int vsp_heartbeat_init(void)
{
	size_t size = PAGE_ALIGN(sizeof(struct vsp_life) +
				 nr_cpu_ids * sizeof(struct vsp_life_cpu));
	struct vsp_life *life;
	unsigned int cpu;
	int err;

	life = vzalloc(size);
	if (!life)
		return -ENOMEM;
	vsp_heartbeat_write_head(life);
	for_each_possible_cpu(cpu)
		per_cpu(heartbeat_entry, cpu) = vsp_heartbeat_entry(life, cpu);
	mutex_lock(&vsp_lock);
	err = vsp_shared_init_vmalloc(&heartbeat_shared, life, size / PAGE_SIZE, false,
				      vsp_heartbeat_move);
	mutex_unlock(&vsp_lock);
	if (err)
		goto free;
	err = smpboot_register_percpu_thread(&vsp_heartbeat_threads);
	if (err)
		goto release;
	return 0;

release:
	mutex_lock(&vsp_lock);
	vsp_shared_release(&heartbeat_shared);
	mutex_unlock(&vsp_lock);
free:
	vfree(life);
	return err;
}

void vsp_heartbeat_exit(void)
{
	void *life = heartbeat_shared.home;
	unsigned int cpu;

	/*
	 * kthread_stop() warns if a thread that is bound to a CPU is not parked.
	 * That was fixed in 6.12, 6.1.113 and 5.10.227.
	 */
	cpu_hotplug_disable();
	for_each_online_cpu(cpu)
		kthread_park(per_cpu(heartbeat_thread, cpu));
	smpboot_unregister_percpu_thread(&vsp_heartbeat_threads);
	cpu_hotplug_enable();
	mutex_lock(&vsp_lock);
	vsp_shared_release(&heartbeat_shared);
	mutex_unlock(&vsp_lock);
	vfree(life);
}
