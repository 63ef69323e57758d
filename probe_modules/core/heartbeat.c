// SPDX-License-Identifier: GPL-2.0-only
/*
 * Signs of life, for the host to read: each CPU counts timer interrupts, and
 * runs of a thread that each of them wakes.
 *
 * The timer is pinned to its CPU and wakes it also from tickless idle: a CPU
 * that has nothing to do must not look like one that hangs.  The thread is of
 * the normal class, at its highest priority: a loaded CPU runs it in time, one
 * whose scheduler never comes to the normal class does not.
 *
 * They are shown while a transport is registered, whether or not anybody reads
 * them.  Without one the threads sleep and no timer runs.  Each thread starts
 * its CPU's timer, and each timer stops itself: who connects or disconnects
 * waits for no CPU, which may hang.
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

static struct vsp_shared life_shared;		/* struct vsp_life; under vsp_lock */

/* Where the CPU writes: with interrupts off, in which it is moved. */
static DEFINE_PER_CPU(struct vsp_life_cpu *, life_mine);

static DEFINE_PER_CPU(struct task_struct *, life_thread);
static DEFINE_PER_CPU(struct hrtimer, life_timer);
static DEFINE_PER_CPU(bool, life_due);

static bool life_wanted;	/* a transport is registered; set under vsp_lock */

/* Interrupts off. */
static void show(unsigned int cpu, enum vsp_life_state state)
{
	WRITE_ONCE(per_cpu(life_mine, cpu)->state, state);
}

static enum hrtimer_restart life_tick(struct hrtimer *timer)
{
	struct vsp_life_cpu *mine = __this_cpu_read(life_mine);

	if (!READ_ONCE(life_wanted)) {
		show(smp_processor_id(), VSP_LIFE_NONE);
		return HRTIMER_NORESTART;
	}
	WRITE_ONCE(mine->irq_ns, ktime_get_mono_fast_ns());
	WRITE_ONCE(mine->irqs, mine->irqs + 1);
	__this_cpu_write(life_due, true);
	wake_up_process(__this_cpu_read(life_thread));
	hrtimer_forward_now(timer, ms_to_ktime(VSP_LIFE_PERIOD_MS));
	return HRTIMER_RESTART;
}

/* The following are run by the CPU's own thread. */

static int should_run(unsigned int cpu)
{
	return READ_ONCE(per_cpu(life_due, cpu));
}

/* The timer's handler cannot run in between: it is this CPU's. */
static void begin(unsigned int cpu)
{
	struct hrtimer *timer = per_cpu_ptr(&life_timer, cpu);
	unsigned long flags;

	local_irq_save(flags);
	if (READ_ONCE(life_wanted) && !hrtimer_active(timer)) {
		show(cpu, VSP_LIFE_SHOWN);
		hrtimer_start(timer, ms_to_ktime(VSP_LIFE_PERIOD_MS),
			      HRTIMER_MODE_REL_PINNED_HARD);
	}
	local_irq_restore(flags);
}

static void end(unsigned int cpu)
{
	unsigned long flags;

	hrtimer_cancel(per_cpu_ptr(&life_timer, cpu));
	local_irq_save(flags);
	show(cpu, VSP_LIFE_NONE);
	local_irq_restore(flags);
}

static void run(unsigned int cpu)
{
	struct vsp_life_cpu *mine;
	unsigned long flags;

	WRITE_ONCE(per_cpu(life_due, cpu), false);
	begin(cpu);
	local_irq_save(flags);
	mine = per_cpu(life_mine, cpu);
	WRITE_ONCE(mine->run_ns, ktime_get_mono_fast_ns());
	WRITE_ONCE(mine->runs, mine->runs + 1);
	local_irq_restore(flags);
}

static void setup(unsigned int cpu)
{
	struct hrtimer *timer = per_cpu_ptr(&life_timer, cpu);

	set_user_nice(current, MIN_NICE);
	hrtimer_setup(timer, life_tick, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	begin(cpu);
}

static void cleanup(unsigned int cpu, bool online)
{
	end(cpu);
}

static struct smp_hotplug_thread threads = {
	.store = &life_thread,
	.thread_should_run = should_run,
	.thread_fn = run,
	.setup = setup,
	.cleanup = cleanup,
	.park = end,
	.unpark = begin,
	.thread_comm = "vesper/%u",
};

/* The CPU's, behind the head. */
static struct vsp_life_cpu *entry(void *life, unsigned int cpu)
{
	return (struct vsp_life_cpu *)((struct vsp_life *)life + 1) + cpu;
}

static void write_head(struct vsp_life *life)
{
	life->magic = VSP_LIFE_MAGIC;
	life->version = VSP_LIFE_VERSION;
	life->period_ms = VSP_LIFE_PERIOD_MS;
	life->nr_cpus = nr_cpu_ids;
}

struct relocation {
	unsigned int cpu;
	struct vsp_life_cpu *to;
};

static void move_here(void *info)
{
	struct relocation *relocation = info;

	*relocation->to = *per_cpu(life_mine, relocation->cpu);
	per_cpu(life_mine, relocation->cpu) = relocation->to;
}

static void move_life(struct vsp_shared *shared, void *to)
{
	unsigned int cpu;

	write_head(to);
	for_each_possible_cpu(cpu) {
		struct relocation relocation = { cpu, entry(to, cpu) };

		vsp_call_on(cpu, move_here, &relocation);
	}
}

void vsp_life_connect(void)
{
	unsigned int cpu;
	int err = vsp_shared_connect(&life_shared);

	if (err) {
		pr_warn("vesper: cannot share signs of life: %d\n", err);
		return;
	}
	WRITE_ONCE(life_wanted, true);
	for_each_online_cpu(cpu) {
		WRITE_ONCE(per_cpu(life_due, cpu), true);
		wake_up_process(per_cpu(life_thread, cpu));
	}
}

void vsp_life_disconnect(void)
{
	WRITE_ONCE(life_wanted, false);
	vsp_shared_disconnect(&life_shared);
}

struct vsp_region vsp_life_region(void)
{
	return life_shared.region;
}

int vsp_life_init(void)
{
	size_t size = PAGE_ALIGN(sizeof(struct vsp_life) +
				 nr_cpu_ids * sizeof(struct vsp_life_cpu));
	struct vsp_life *life;
	unsigned int cpu;
	int err;

	life = vzalloc(size);
	if (!life)
		return -ENOMEM;
	write_head(life);
	for_each_possible_cpu(cpu)
		per_cpu(life_mine, cpu) = entry(life, cpu);
	mutex_lock(&vsp_lock);
	err = vsp_shared_init_vmalloc(&life_shared, life, size / PAGE_SIZE, false, move_life);
	mutex_unlock(&vsp_lock);
	if (err)
		goto free;
	err = smpboot_register_percpu_thread(&threads);
	if (err)
		goto release;
	return 0;

release:
	mutex_lock(&vsp_lock);
	vsp_shared_release(&life_shared);
	mutex_unlock(&vsp_lock);
free:
	vfree(life);
	return err;
}

void vsp_life_exit(void)
{
	void *life = life_shared.home;
	unsigned int cpu;

	/*
	 * kthread_stop() takes a thread that is bound to a CPU for parked, and
	 * warns if it is not: mended in 6.12, 6.1.113, and 5.10.227.
	 */
	cpu_hotplug_disable();
	for_each_online_cpu(cpu)
		kthread_park(per_cpu(life_thread, cpu));
	smpboot_unregister_percpu_thread(&threads);
	cpu_hotplug_enable();
	mutex_lock(&vsp_lock);
	vsp_shared_release(&life_shared);
	mutex_unlock(&vsp_lock);
	vfree(life);
}
