// SPDX-License-Identifier: GPL-2.0-only
/*
 * Probe probe_point: a dynamic probe, whose place is given when it is loaded.
 *
 * It is a kprobe, a return probe or a tracepoint, and records up to VSP_POINT_ARGS
 * values there.  The user writes it in the syntax of the kernel's own kprobe events.
 * The host compiles that into the parameters of this module: program.c describes the
 * format.  Each dynamic probe is a module of its own: the host gives each image
 * another name.
 *
 * The parameters cannot crash the kernel: memory is read by functions that fail where
 * there is none, and a handler never runs inside itself.
 */

#include <linux/kprobes.h>
#include <linux/percpu.h>
#include <linux/preempt.h>

#include "probe_point.h"

static char *at = "";
module_param(at, charp, 0444);
MODULE_PARM_DESC(at, "p:SYMBOL[+OFFSET], r:SYMBOL or t:TRACEPOINT");

static char *args = "";
module_param(args, charp, 0444);
MODULE_PARM_DESC(args, "the values, compiled by the host");

static char *only = "";
module_param(only, charp, 0444);
MODULE_PARM_DESC(only, "conditions, compiled by the host");

static unsigned int id;
module_param(id, uint, 0444);
MODULE_PARM_DESC(id, "number of the definition, repeated in each record (0)");

static unsigned int max_active;
module_param(max_active, uint, 0444);
MODULE_PARM_DESC(max_active, "return probe: calls followed at once (0: the kernel's choice)");

static unsigned int max_per_s = 100;
module_param(max_per_s, uint, 0644);
MODULE_PARM_DESC(max_per_s, "record at most so many in a second; 0: all (100)");

static struct point_program program;
static struct vsp_probe probe;
static struct vsp_limit limit;

/* Hits while a handler runs on the same CPU, mostly caused by the handler itself. */
static DEFINE_PER_CPU(int, running);
static atomic_t within;

static int point_on_kprobe(struct kprobe *kp, struct pt_regs *regs);
static int point_on_return(struct kretprobe_instance *instance, struct pt_regs *regs);

static struct kprobe kprobe = { .pre_handler = point_on_kprobe };
static struct kretprobe kretprobe = { .handler = point_on_return };

/* ------------------------------------------------------------ handlers */

static void point_record(const struct point_source *source)
{
	struct vsp_probe_point rec;

	if (!point_is_wanted(&program, source, &rec))
		return;
	if (!vsp_limit_allows(&limit, READ_ONCE(max_per_s), &rec.left_out))
		return;
	rec.rec.len = offsetof(struct vsp_probe_point, text) +
		      point_fetch(&program, source, &rec);
	rec.rec.event = VSP_EVENT_PROBE_POINT;
	rec.id = id;
	rec.missed = kprobe.nmissed + kretprobe.kp.nmissed + kretprobe.nmissed +
		     atomic_read(&within);
	rec.pid = current->pid;
	rec.tgid = current->tgid;
	rec.reserved = 0;
	vsp_copy_comm(rec.comm, current);
	vsp_record_write(probe.channel, &rec.rec);
}

/* Reading a bad address causes a page fault, which may be a hit of this probe, too. */
static void point_handle_hit(const struct point_source *source)
{
	preempt_disable_notrace();
	if (this_cpu_inc_return(running) == 1)
		point_record(source);
	else
		atomic_inc(&within);
	this_cpu_dec(running);
	preempt_enable_notrace();
}

static int point_on_kprobe(struct kprobe *kp, struct pt_regs *regs)
{
	const struct point_source source = { .regs = regs };

	point_handle_hit(&source);
	return 0;
}

static int point_on_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	const struct point_source source = { .regs = regs };

	point_handle_hit(&source);
	return 0;
}

/*
 * Called as if each tracepoint had five arguments.  A tracepoint passes its arguments
 * in registers; those it does not pass have any value.  A kernel that checks the type
 * of a called function (kCFI) would panic: there this is refused.
 */
static void point_on_tracepoint(void *data, unsigned long arg0, unsigned long arg1,
				unsigned long arg2, unsigned long arg3, unsigned long arg4)
{
	const struct point_source source = {
		.args = { arg0, arg1, arg2, arg3, arg4 },
	};

	point_handle_hit(&source);
}

/* --------------------------------------------------------------- place */

static struct vsp_tracepoint tracepoint = { .func = point_on_tracepoint };

static void point_detach_return(void)
{
	unregister_kretprobe(&kretprobe);
}

/*
 * Called after vsp_probe_start(), so that its error is the last line about this module
 * in the log.  The host reads that line.
 */
static int point_attach_return(void)
{
	int err = register_kretprobe(&kretprobe);

	if (err) {
		vsp_probe_end(&probe);
		pr_err("%s: no return probe on %s: %d\n", probe.name,
		       kretprobe.kp.symbol_name, err);
		return err;
	}
	probe.detach = point_detach_return;
	return 0;
}

static int point_parse_place(char *place)
{
	char kind = place[0], *plus;
	unsigned int offset;

	if (!kind || place[1] != ':' || !place[2])
		return -EINVAL;
	place += 2;
	switch (kind) {
	case 'p':
		plus = strchr(place, '+');
		if (plus) {
			*plus = '\0';
			if (kstrtouint(plus + 1, 0, &offset))
				return -EINVAL;
			kprobe.offset = offset;
		}
		kprobe.symbol_name = place;
		probe.kprobes = &kprobe;
		probe.n_kprobes = 1;
		return 0;
	case 'r':
		kretprobe.kp.symbol_name = place;
		kretprobe.maxactive = min(max_active, POINT_MAX_ACTIVE);
		return 0;
	case 't':
		if (IS_ENABLED(CONFIG_CFI_CLANG) || IS_ENABLED(CONFIG_CFI)) {
			pr_err("%s: not on a tracepoint: this kernel checks types of functions (CFI)\n",
			       probe.name);
			return -EOPNOTSUPP;
		}
		tracepoint.name = place;
		probe.tracepoints = &tracepoint;
		probe.n_tracepoints = 1;
		return 0;
	default:
		return -EINVAL;
	}
}

static int point_start(struct vsp_probe *probe)
{
	int err;

	probe->name = THIS_MODULE->name;
	err = point_parse_place(at);
	if (err == -EINVAL)
		pr_err("%s: at=%s is no place\n", probe->name, at);
	if (err)
		return err;
	err = point_parse(&program, at[0] == 't', args, only);
	if (err) {
		pr_err("%s: args=%s only=%s is no program of this version\n", probe->name, args,
		       only);
		return err;
	}
	err = vsp_probe_start(probe);
	if (!err && kretprobe.kp.symbol_name)
		err = point_attach_return();
	return err;
}

vsp_probe_module_by(point_start, vsp_probe_end);

MODULE_DESCRIPTION("VESPER probe: any function or tracepoint, named at load time");
MODULE_LICENSE("GPL");
