/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside probe_point.ko.
 *
 *	probe_point.c	the place: kprobe, return probe or tracepoint
 *	program.c	the values there, and which hits are wanted
 */
#ifndef PROBE_POINT_H
#define PROBE_POINT_H

#include <linux/ptrace.h>
#include <linux/types.h>

#include "vesper.h"

#define POINT_MAX_OPS		12	/* of one value */
#define POINT_MAX_TESTS		8
#define POINT_TRACEPOINT_ARGS	5	/* those in registers, after the probe's data */
#define POINT_MAX_ACTIVE	4096u	/* KRETPROBE_MAXACTIVE_MAX of kprobe events */

/**
 * struct point_source - where a hit's values come from
 * @regs: of a kprobe; NULL at a tracepoint
 * @args: of a tracepoint
 */
struct point_source {
	struct pt_regs *regs;
	unsigned long args[POINT_TRACEPOINT_ARGS];
};

struct point_op {
	char code;
	s64 operand;
};

struct point_arg {
	struct point_op op[POINT_MAX_OPS];
	unsigned int n_ops;
	bool is_text;
	bool is_signed;
	bool is_tested;
	u32 place;	/* of a text, in vsp_probe_point.text */
};

struct point_test {
	u8 arg;
	char code;
	u64 value;
	char text[VSP_POINT_TEXT];	/* if arg is a text */
};

struct point_program {
	struct point_arg arg[VSP_POINT_ARGS];
	unsigned int n_args;
	struct point_test test[POINT_MAX_TESTS];
	unsigned int n_tests;
	u32 text_size;	/* of each text */
	u32 text_used;	/* by all of them */
};

/**
 * point_parse - read and check a program
 * @program: zeroed
 * @tracepoint: else it is of a kprobe
 * @args: the values
 * @only: the conditions
 *
 * Return: 0 or -EINVAL.
 */
int point_parse(struct point_program *program, bool tracepoint, const char *args,
		const char *only);

/**
 * point_is_wanted - get the values that are tested, and test them
 *
 * In any context.  A condition on a value that could not be read does not hold.
 *
 * Return: whether all conditions hold.
 */
bool point_is_wanted(const struct point_program *program, const struct point_source *source,
		     struct vsp_probe_point *rec);

/**
 * point_fetch - get the rest of the values, after point_is_wanted()
 *
 * In any context.  n_args, unread, value and text are complete then.
 *
 * Return: bytes of text that are to be sent.
 */
u32 point_fetch(const struct point_program *program, const struct point_source *source,
		struct vsp_probe_point *rec);

#endif /* PROBE_POINT_H */
