// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's log: its own line about a module, and its end.
 *
 * What finit_module(2) gives back is an errno; why an image was refused
 * ("version magic '...' should be '...'") stands in the kernel's log only.
 */

#include <linux/kernel.h>
#include <linux/kmsg_dump.h>
#include <linux/string.h>

#include "core.h"

#if defined(VSP_HAVE_KMSG_DUMP_ITER)
#define KLOG_ITER_INIT { }
#elif defined(VSP_HAVE_KMSG_DUMPER_ITER)
#define kmsg_dump_iter kmsg_dumper_iter
#define KLOG_ITER_INIT { .active = true }
#else
#define kmsg_dump_iter kmsg_dumper	/* serves as one */
#define KLOG_ITER_INIT { .active = true }
#endif

#define KLOG_LINE_LEN	256
#define KLOG_MAX_LINES	1000

/* The sequence number of the next line. */
u64 vsp_klog_mark(void)
{
	struct kmsg_dump_iter iter = KLOG_ITER_INIT;

	kmsg_dump_rewind(&iter);
	return iter.next_seq;
}

/* "[   12.345678] text" or, with printk.time=0, "text". */
static char *vsp_klog_skip_time(char *line)
{
	char *end;

	if (line[0] != '[')
		return line;
	end = strstr(line, "] ");
	return end ? end + 2 : line;
}

static bool vsp_klog_is_about(const char *text, const char *name)
{
	size_t len = strlen(name);

	return !strncmp(text, name, len) && text[len] == ':';
}

/* Said about any module that is not the distribution's: no reason for anything. */
static bool vsp_klog_is_taint(const char *text)
{
	return strstr(text, "taints kernel") || strstr(text, "tainting kernel");
}

/**
 * vsp_klog_find - the last line about a module
 * @mark: from vsp_klog_mark(), taken before
 * @name: the module's name
 * @any: take the last line of all if there is none that begins with the name:
 *	 some of the kernel's complaints about an image do not name it
 * @text: gets the line, without time and newline, or ""
 * @size: of @text
 */
void vsp_klog_find(u64 mark, const char *name, bool any, char *text, size_t size)
{
	struct kmsg_dump_iter iter = KLOG_ITER_INIT;
	char line[KLOG_LINE_LEN];
	bool found = false;
	int lines;
	size_t len;

	text[0] = '\0';
	kmsg_dump_rewind(&iter);
	iter.cur_seq = max_t(u64, iter.cur_seq, mark);
	for (lines = 0; lines < KLOG_MAX_LINES; lines++) {
		char *start;
		bool about;

		if (!kmsg_dump_get_line(&iter, false, line, sizeof(line) - 1, &len))
			break;
		line[len] = '\0';
		start = vsp_klog_skip_time(strim(line));
		if (vsp_klog_is_taint(start))
			continue;
		about = vsp_klog_is_about(start, name);
		if (!about && (found || !any))
			continue;
		strscpy(text, start, size);
		found |= about;
	}
}

size_t vsp_klog_end(char *text, size_t size)
{
	struct kmsg_dump_iter iter = KLOG_ITER_INIT;
	size_t len = 0;

	kmsg_dump_rewind(&iter);
	kmsg_dump_get_buffer(&iter, false, text, size, &len);
	return len;
}
