// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fetches the values of a dynamic probe, and tests the conditions on them.
 *
 * args=VALUE,VALUE,...  A value is a sequence of operations on one 64-bit number.  An
 * operation is a letter and a decimal operand, without spaces in between:
 *
 *	rN	= the register at byte N of struct pt_regs (kprobe, first only)
 *	aN	= argument N of the tracepoint, from 0 (tracepoint, first only)
 *	bN hN wN qN	= 1, 2, 4, 8 bytes of the kernel's memory at it + N
 *	<N >N	shifted left, right
 *	/N	shifted right as a signed number
 *	zN uN	text in the kernel's, the process's memory at it + N (last only)
 *	yN	name of the symbol that it points to (last only; N is 0)
 *	cN	comm of the running task (only one; N is 0)
 *
 * only=TEST,TEST,...  All must hold.  A test is the number of a value, from 0,
 * one of = ! < { > } & (equal, not, less, at most, greater, at least, any bit
 * of) and a decimal number, or for a text = or ! and its bytes in hexadecimal.
 *
 * The host generates both: vesper_monitor/guest/dynamic_probes/program.py.
 */

#include <linux/ctype.h>
#include <linux/kernel.h>
#include <linux/minmax.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "probe_point.h"

/* ------------------------------------------------------------- parsing */

/* Parse a decimal number of 64 bits, with or without sign, and move @from behind it. */
static int point_parse_number(const char **from, u64 *number)
{
	bool negative = **from == '-';
	const char *at = *from + negative;
	u64 n = 0;

	if (!isdigit(*at))
		return -EINVAL;
	for (; isdigit(*at); at++) {
		if (n > (U64_MAX - (*at - '0')) / 10)
			return -EINVAL;
		n = n * 10 + (*at - '0');
	}
	*number = negative ? -n : n;
	*from = at;
	return 0;
}

static bool point_op_fits(const struct point_op *op, bool tracepoint, bool first, bool last)
{
	switch (op->code) {
	case 'r':
		return first && !tracepoint && op->operand % sizeof(long) == 0 &&
		       op->operand >= 0 && op->operand < sizeof(struct pt_regs);
	case 'a':
		return first && tracepoint && op->operand >= 0 &&
		       op->operand < POINT_TRACEPOINT_ARGS;
	case 'b':
	case 'h':
	case 'w':
	case 'q':
		return !first;
	case '<':
	case '>':
	case '/':
		return !first && op->operand >= 0 && op->operand < 64;
	case 'z':
	case 'u':
	case 'y':
		return !first && last;
	case 'c':
		return first && last;
	default:
		return false;
	}
}

static int point_parse_arg(struct point_arg *arg, bool tracepoint, const char **from)
{
	unsigned int i;
	u64 operand;

	while (**from && **from != ',') {
		if (arg->n_ops == POINT_MAX_OPS)
			return -EINVAL;
		arg->op[arg->n_ops].code = *(*from)++;
		if (point_parse_number(from, &operand))
			return -EINVAL;
		arg->op[arg->n_ops++].operand = operand;
	}
	if (!arg->n_ops)
		return -EINVAL;
	for (i = 0; i < arg->n_ops; i++) {
		if (!point_op_fits(&arg->op[i], tracepoint, !i, i + 1 == arg->n_ops))
			return -EINVAL;
	}
	arg->is_text = strchr("zuyc", arg->op[arg->n_ops - 1].code);
	arg->is_signed = arg->op[arg->n_ops - 1].code == '/';
	return 0;
}

static int point_parse_text(struct point_test *test, u32 size, const char **from)
{
	unsigned int len = 0;

	while (**from && **from != ',') {
		if (len + 1 >= size || hex2bin(&test->text[len], *from, 1))
			return -EINVAL;
		len++;
		*from += 2;
	}
	return 0;
}

static int point_parse_test(struct point_program *program, struct point_test *test,
			    const char **from)
{
	u64 number;

	if (point_parse_number(from, &number) || number >= program->n_args || !**from)
		return -EINVAL;
	test->arg = number;
	program->arg[number].is_tested = true;
	test->code = *(*from)++;
	if (program->arg[test->arg].is_text)
		return strchr("=!", test->code) ?
		       point_parse_text(test, program->text_size, from) : -EINVAL;
	return strchr("=!<{>}&", test->code) ? point_parse_number(from, &test->value) : -EINVAL;
}

/* Divide the room for texts equally among them. */
static void point_place_texts(struct point_program *program)
{
	unsigned int i, n = 0;

	for (i = 0; i < program->n_args; i++)
		n += program->arg[i].is_text;
	if (!n)
		return;
	program->text_size = round_down(VSP_POINT_TEXT / n, 8);
	for (i = 0; i < program->n_args; i++) {
		if (!program->arg[i].is_text)
			continue;
		program->arg[i].place = program->text_used;
		program->text_used += program->text_size;
	}
}

int point_parse(struct point_program *program, bool tracepoint, const char *args,
		const char *only)
{
	while (*args) {
		if (program->n_args == VSP_POINT_ARGS ||
		    point_parse_arg(&program->arg[program->n_args++], tracepoint, &args))
			return -EINVAL;
		if (*args && !*++args)
			return -EINVAL;	/* a comma at the end */
	}
	point_place_texts(program);
	while (*only) {
		if (program->n_tests == POINT_MAX_TESTS ||
		    point_parse_test(program, &program->test[program->n_tests++], &only))
			return -EINVAL;
		if (*only && *only++ != ',')
			return -EINVAL;
	}
	return 0;
}

/* ------------------------------------------------------------ fetching */

static bool point_read_number(u64 *value, u64 address, char code)
{
	unsigned int size = code == 'b' ? 1 : code == 'h' ? 2 : code == 'w' ? 4 : 8;
	u64 read = 0;

	if (copy_from_kernel_nofault(&read, (void *)(unsigned long)address, size))
		return false;
	*value = read;
	return true;
}

/* Read aligned pieces: a text may end just before a page that does not exist. */
static bool point_read_text(char *to, u32 size, u64 address, bool user)
{
	u32 len = 0;

	while (len + 1 < size) {
		u32 piece = min_t(u32, 8 - (address + len) % 8, size - 1 - len);
		unsigned long from = address + len;
		long err;

		if (user)
			err = copy_from_user_nofault(to + len, (void __user *)from, piece);
		else
			err = copy_from_kernel_nofault(to + len, (void *)from, piece);
		if (err) {
			to[len] = '\0';
			return len;
		}
		if (memchr(to + len, '\0', piece))
			break;
		len += piece;
	}
	return true;
}

static bool point_fetch_value(const struct point_arg *arg, const struct point_source *source,
			      u64 *value, char *text, u32 size)
{
	unsigned int i;
	u64 v = 0;

	for (i = 0; i < arg->n_ops; i++) {
		s64 operand = arg->op[i].operand;

		switch (arg->op[i].code) {
		case 'r':
			v = regs_get_register(source->regs, operand);
			break;
		case 'a':
			v = source->args[operand];
			break;
		case '<':
			v <<= operand;
			break;
		case '>':
			v >>= operand;
			break;
		case '/':
			v = (s64)v >> operand;
			break;
		case 'z':
		case 'u':
			return point_read_text(text, size, v + operand, arg->op[i].code == 'u');
		case 'y':
			snprintf(text, size, "%ps", (void *)(unsigned long)v);
			return true;
		case 'c':
			strscpy(text, current->comm, size);
			return true;
		default:
			if (!point_read_number(&v, v + operand, arg->op[i].code))
				return false;
		}
	}
	*value = v;
	return true;
}

static void point_fetch_values(const struct point_program *program,
			       const struct point_source *source, struct vsp_probe_point *rec,
			       bool tested)
{
	unsigned int i;

	for (i = 0; i < program->n_args; i++) {
		const struct point_arg *arg = &program->arg[i];

		if (arg->is_tested == tested &&
		    !point_fetch_value(arg, source, &rec->value[i], rec->text + arg->place,
				       program->text_size))
			rec->unread |= 1u << i;
	}
}

u32 point_fetch(const struct point_program *program, const struct point_source *source,
		struct vsp_probe_point *rec)
{
	point_fetch_values(program, source, rec, false);
	return program->text_used;
}

/* ---------------------------------------------------------- conditions */

static int point_compare_numbers(u64 a, u64 b, bool is_signed)
{
	if (a == b)
		return 0;
	if (is_signed)
		return (s64)a < (s64)b ? -1 : 1;
	return a < b ? -1 : 1;
}

static bool point_test_holds(const struct point_program *program, const struct point_test *test,
			     const struct vsp_probe_point *rec)
{
	const struct point_arg *arg = &program->arg[test->arg];
	u64 value = rec->value[test->arg];
	int order;

	if (rec->unread & 1u << test->arg)
		return false;
	if (arg->is_text)
		order = strncmp(rec->text + arg->place, test->text, program->text_size);
	else
		order = point_compare_numbers(value, test->value, arg->is_signed);
	switch (test->code) {
	case '=':
		return order == 0;
	case '!':
		return order != 0;
	case '<':
		return order < 0;
	case '{':
		return order <= 0;
	case '>':
		return order > 0;
	case '}':
		return order >= 0;
	default:
		return value & test->value;
	}
}

bool point_is_wanted(const struct point_program *program, const struct point_source *source,
		     struct vsp_probe_point *rec)
{
	unsigned int i;

	rec->n_args = program->n_args;
	rec->unread = 0;
	memset(rec->value, 0, sizeof(rec->value));
	memset(rec->text, 0, program->text_used);
	point_fetch_values(program, source, rec, true);
	for (i = 0; i < program->n_tests; i++) {
		if (!point_test_holds(program, &program->test[i], rec))
			return false;
	}
	return true;
}
