// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads the kernel's log: the line about a module, and the end of the log.
 *
 * finit_module(2) returns an errno only.  The reason for a refused image, such as
 * "version magic '...' should be '...'", is written to the log.
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

/* Return the sequence number of the next line. */
u64 vsp_klog_mark(void)
{
	struct kmsg_dump_iter iter = KLOG_ITER_INIT;

	kmsg_dump_rewind(&iter);
	return iter.next_seq;
}

/* Skip the time in "[   12.345678] text".  With printk.time=0 there is none. */
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

/* The kernel says so of each module that it did not come with. */
static bool vsp_klog_is_taint(const char *text)
{
	return strstr(text, "taints kernel") || strstr(text, "tainting kernel");
}

/**
 * vsp_klog_find - find the last line about a module
 * @mark: of vsp_klog_mark(); older lines are ignored
 * @name: the module's name, with which the line begins
 * @any: if there is no such line, take the last line of the log: some messages
 *	 about an image do not begin with its name
 * @text: receives the line, without time and newline, or ""
 * @size: bytes of @text
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
