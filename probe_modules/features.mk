# SPDX-License-Identifier: GPL-2.0-only
#
# Tests the kernel's headers for features.  Version numbers do not suffice: stable
# kernels and distributions backport changes.
#
# Each line defines VSP_HAVE_NAME if a line of the headers matches.  The names are
# explained in include/vesper_features.h.  In a pattern "." stands for a parenthesis or
# a comma, which have a meaning for make.

# $(call vsp-have,NAME,PATTERN,HEADERS below include/)
vsp-have = $(if $(shell cd $(srctree)/include && grep -sqE '$(2)' $(3) && echo yes),-DVSP_HAVE_$(1))

# $(call vsp-have-file,NAME,HEADER)
vsp-have-file = $(if $(wildcard $(srctree)/include/$(2)),-DVSP_HAVE_$(1))

vsp-features := \
	$(call vsp-have,BLOCK_RQ_ERROR,^DEFINE_EVENT.block_rq_completion. block_rq_error,trace/events/block.h) \
	$(call vsp-have,CGROUP_ANCESTORS,return cgrp->ancestors[[]ancestor_level,linux/cgroup.h) \
	$(call vsp-have,FILE_OPEN_ROOT_PATH,file_open_root.const struct path,linux/fs.h) \
	$(call vsp-have,FS_SEQLOCK,seqlock_t[[:space:]]+seq;,linux/fs_struct.h) \
	$(call vsp-have,GRANT_END_PAGE,gnttab_end_foreign_access.grant_ref_t ref. struct page,xen/grant_table.h) \
	$(call vsp-have,GRANT_END_READONLY,gnttab_end_foreign_access.grant_ref_t ref. int readonly,xen/grant_table.h) \
	$(call vsp-have-file,HEX_H,linux/hex.h) \
	$(call vsp-have,HRTIMER_SETUP,hrtimer_setup.struct hrtimer,linux/hrtimer.h) \
	$(call vsp-have,KMSG_DUMP_DETAIL,^struct kmsg_dump_detail,linux/kmsg_dump.h) \
	$(call vsp-have,KMSG_DUMP_ITER,^struct kmsg_dump_iter,linux/kmsg_dump.h) \
	$(call vsp-have,KMSG_DUMPER_ITER,^struct kmsg_dumper_iter,linux/kmsg_dump.h) \
	$(call vsp-have-file,MEMORY_FAILURE_H,trace/events/memory-failure.h) \
	$(call vsp-have-file,PANIC_NOTIFIER_H,linux/panic_notifier.h) \
	$(call vsp-have,RELAY_CONST_CALLBACKS,const struct rchan_callbacks [*]cb,linux/relay.h) \
	$(call vsp-have,RELAY_PREV_PADDING,size_t prev_padding.;,linux/relay.h) \
	$(call vsp-have,REQUEST_RQ_DISK,struct gendisk[[:space:]]*[*]rq_disk;,linux/blkdev.h linux/blk-mq.h) \
	$(call vsp-have,SEND_SIGNAL_LOCKED,send_signal_locked.int sig,linux/signal.h) \
	$(call vsp-have,SYSCORE_DATA,^struct syscore [{],linux/syscore_ops.h) \
	$(call vsp-have,XENBUS_REMOVE_VOID,void ..remove..struct xenbus_device,xen/xenbus.h)
