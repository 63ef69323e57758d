/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Internal interfaces of probe_point.ko.
 *
 *	probe_point.c	the place: kprobe, return probe or tracepoint
 *	program.c	fetches the values, and tests the conditions
 */
#ifndef PROBE_POINT_H
#define PROBE_POINT_H

#include <linux/ptrace.h>
#include <linux/types.h>

#include "vesper.h"

#define POINT_MAX_OPS		12	/* operations of one value */
#define POINT_MAX_TESTS		8
#define POINT_TRACEPOINT_ARGS	5	/* those in registers, after the data pointer */
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
	u32 place;	/* of a text: its offset in vsp_probe_point.text */
};

struct point_test {
	u8 arg;
	char code;
	u64 value;
	char text[VSP_POINT_TEXT];	/* the operand, if the value is a text */
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
 * point_parse - parse and check a program
 * @program: the result; must be zeroed
 * @tracepoint: the program is for a tracepoint, not for a kprobe
 * @args: the values
 * @only: the conditions
 *
 * Return: 0 or -EINVAL.
 */
int point_parse(struct point_program *program, bool tracepoint, const char *args,
		const char *only);

/**
 * point_is_wanted - fetch the values that have conditions, and test these
 * @program: the program
 * @source: the hit
 * @rec: receives the values
 *
 * In any context.  A condition on a value that could not be read does not hold.
 *
 * Return: whether all conditions hold.
 */
bool point_is_wanted(const struct point_program *program, const struct point_source *source,
		     struct vsp_probe_point *rec);

/**
 * point_fetch - fetch the other values, after point_is_wanted()
 * @program: the program
 * @source: the hit
 * @rec: receives the values: n_args, unread, value and text are complete then
 *
 * In any context.
 *
 * Return: number of bytes of text in the record.
 */
u32 point_fetch(const struct point_program *program, const struct point_source *source,
		struct vsp_probe_point *rec);

#endif /* PROBE_POINT_H */
