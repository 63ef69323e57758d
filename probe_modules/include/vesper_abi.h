/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The interface between a guest's kernel and its host.
 *
 * vesper_monitor/guest/abi.py is Python's view of this file; tests/unit/guest/test_abi.py
 * compares the two field by field.  All integers are little endian (VESPER
 * runs on x86-64) and naturally aligned; there is no implicit padding.
 *
 * Shared memory
 * -------------
 * The guest owns all memory and shares it with the host as *regions*: a
 * number of 4096-byte pages and a handle that only the transport understands
 * (Xen: the grant reference of a directory page, struct vsp_xen_dir; ivshmem:
 * where it begins in the device's memory, struct vsp_shm_head).
 *
 *   region          made by        host may  lives
 *   C-chan page     frontend       write     activate .. deactivate
 *   channel table   core           read      core loaded .. unloaded
 *   index page(s)   core           write     vsp_relay_export_start .. _end
 *   relay buffers   probe's rchan  read      as the index, one region per CPU
 *   image           core           write     MEM_ALLOC .. LOAD or MEM_FREE
 *   crash log       core           read      core loaded .. unloaded
 *   heartbeats      core           read      core loaded .. unloaded
 *
 * The guest never waits for the host.  The host does not trust the content: it
 * copies a value, checks its bounds, and then uses the copy.
 *
 * C-chan
 * ------
 * One page with two rings of messages of fixed size.  The host sends requests.
 * The guest answers each with exactly one reply, which repeats type and seq of
 * the request.  The guest takes a request only when there is room for its reply.
 * Each side notifies the other (event channel, doorbell) after it has moved
 * prod or cons.  prod and cons run freely; slot = counter % VSP_CCHAN_SLOTS.
 *
 * The host sends HELLO first whenever it connects.  A restarted daemon takes over
 * a running guest: it reads its counters from the page, ignores replies whose seq
 * is not its own, and reads the channel table.
 *
 * Loading a probe
 * ---------------
 *   host                               guest
 *   MEM_ALLOC pages             -->    allocates, shares
 *                               <--    region
 *   maps, writes image, unmaps
 *   LOAD region, length, crc    -->    stops sharing, checks, loads the module
 *                               <--    0, or errno and the kernel's own line
 *   finds the channel in the table, maps index and buffers
 *
 * To unload a probe, the host unmaps the channel, then sends UNLOAD name.
 *
 * PROCESSES asks which names have a main process.  A guest answers a request that
 * it does not know with -EOPNOTSUPP.
 *
 * D-chan
 * ------
 * One relay channel per probe, opened in overwrite mode.  After each record the
 * probe calls vsp_update_host_index().  It publishes the write position in the
 * channel's index and rings the host's bell.  A record never crosses the end of a
 * sub-buffer; the bytes left there are padding (see pad[]).
 *
 * The host stores in the same index how far it has read (read).  When the guest is
 * restored or migrated, the next host continues there.  Before its hypervisor
 * suspends it, the guest sets asleep.  Records that nobody has read by then are
 * left to the next host.
 *
 * The bell avoids notifications while an earlier one is pending: see enum vsp_bell.
 *
 * Crash log
 * ---------
 * One region, struct vsp_words, given in HELLO.  On an oops and on a panic the
 * kernel saves its message, stack and log there, and notifies the host.  The region
 * keeps them until the domain's memory is freed or another kernel is started.
 *
 * Heartbeats
 * ----------
 * One region, struct vsp_life, given in HELLO and in the C-chan page.  From activate
 * to deactivate each CPU counts, twice a second, that it takes interrupts and that
 * its scheduler runs threads.  It does so even if no daemon runs.  The host reads
 * the region whenever it likes, and is not notified.  If a guest does not answer
 * HELLO, a new daemon learns from the heartbeats whether that guest hangs.
 */
#ifndef VESPER_ABI_H
#define VESPER_ABI_H

#include <linux/types.h>

#define VSP_ABI_VERSION		1
#define VSP_CCHAN_MAGIC		0x43505356	/* "VSPC" */
#define VSP_TABLE_MAGIC		0x54505356	/* "VSPT" */
#define VSP_LIFE_MAGIC		0x4c505356	/* "VSPL" */
#define VSP_WORDS_MAGIC		0x57505356	/* "VSPW" */
#define VSP_SHM_MAGIC		0x4d505356	/* "VSPM" */
#define VSP_PAGE_SIZE		4096

#define VSP_NAME_LEN		56	/* MODULE_NAME_LEN on 64 bit */
#define VSP_RELEASE_LEN		65	/* __NEW_UTS_LEN + 1 */
#define VSP_VERMAGIC_LEN	111
#define VSP_COMM_LEN		16	/* TASK_COMM_LEN */
#define VSP_DISK_LEN		32	/* DISK_NAME_LEN */
#define VSP_FSTYPE_LEN		16
#define VSP_IFNAME_LEN		16	/* IFNAMSIZ */
#define VSP_WHERE_LEN		40
#define VSP_MOUNT_LEN		128
#define VSP_PAGE_TYPE_LEN	48
#define VSP_DIE_LEN		128
#define VSP_SYMBOL_LEN		96
#define VSP_CGROUP_LEN		128

#define VSP_MAX_CHANNELS	16
#define VSP_MAX_SUBBUFS		8	/* sub-buffers of one relay buffer */
#define VSP_MAX_REGION_PAGES	1016	/* see struct vsp_xen_dir */

/* A piece of the guest's memory that the host may map. */
struct vsp_region {
	__u64 handle;		/* the transport's; 0: not shared */
	__u32 pages;
	__u32 reserved;
};

/* ------------------------------------------------------------ C-chan */

#define VSP_CCHAN_SLOTS		4	/* a power of two */
#define VSP_MSG_SIZE		256

enum vsp_msg_type {
	VSP_MSG_HELLO		= 1,
	VSP_MSG_MEM_ALLOC	= 2,
	VSP_MSG_MEM_FREE	= 3,
	VSP_MSG_LOAD		= 4,
	VSP_MSG_UNLOAD		= 5,
	VSP_MSG_PROCESSES	= 6,
};

/* Starts every message. */
struct vsp_msg_hdr {
	__u32 type;		/* enum vsp_msg_type */
	__u32 seq;		/* chosen by the host; the reply repeats it */
	__s32 status;		/* reply: 0 or -errno; request: 0 */
	__u32 version;		/* VSP_ABI_VERSION of the sender */
};

/* HELLO, reply.  The request is the header alone. */
struct vsp_msg_hello {
	struct vsp_msg_hdr hdr;
	__u32 features;		/* none yet */
	__u32 nr_cpus;		/* possible CPUs: bounds the CPU numbers */
	struct vsp_region table;	/* channel table */
	__u64 boot_id;		/* random; changes with each load of the core */
	char release[VSP_RELEASE_LEN];	/* uname -r */
	char vermagic[VSP_VERMAGIC_LEN];	/* as modinfo shows it */
	struct vsp_region words;	/* crash log; handle 0: none */
	struct vsp_region life;	/* heartbeats; handle 0: none */
};

/* MEM_ALLOC: pages in the request; the region in the reply. */
/* MEM_FREE: the region's handle in the request; the reply is its header. */
struct vsp_msg_mem {
	struct vsp_msg_hdr hdr;
	struct vsp_region region;
};

/*
 * LOAD, request.  The region holds the image.  Behind it, at offset image_len, are
 * the module's parameters: params_len bytes without NUL, as on insmod's command
 * line.  The guest ends the sharing of the region, whatever the outcome.
 */
struct vsp_msg_load {
	struct vsp_msg_hdr hdr;
	struct vsp_region region;
	__u32 image_len;
	__u32 params_len;
	__u32 crc32;		/* of image and parameters, as zlib.crc32() */
	__u32 reserved;
	char name[VSP_NAME_LEN];	/* the module's name */
};

/* UNLOAD, request. */
struct vsp_msg_unload {
	struct vsp_msg_hdr hdr;
	char name[VSP_NAME_LEN];
};

/* LOAD and UNLOAD, reply. */
struct vsp_msg_result {
	struct vsp_msg_hdr hdr;	/* status: errno of finit_module(2), delete_module(2) */
	char text[240];		/* what the kernel logged about it, or "" */
};

#define VSP_MAX_NAMES		5	/* in one request */
#define VSP_PROCESS_USERS_OWN	(1 << 0)	/* a user has started it, not the system */

/* The main process of a name. */
struct vsp_process {
	char name[VSP_COMM_LEN];	/* set by the host; "": unused */
	__s32 pid;		/* thread group; 0: no such process, or a request */
	__u32 uid;
	__u32 flags;		/* VSP_PROCESS_* */
	__u32 reserved;
	__u64 age_ms;		/* since it was forked */
};

/* PROCESSES: the request has the names, the reply all other fields, too. */
struct vsp_msg_processes {
	struct vsp_msg_hdr hdr;
	__u64 uptime_ms;	/* of the guest's kernel, without the time suspended */
	struct vsp_process process[VSP_MAX_NAMES];
};

struct vsp_cchan_ring {
	__u32 prod;		/* written by the sender */
	__u32 cons;		/* written by the receiver */
	__u8 reserved[56];
	__u8 slot[VSP_CCHAN_SLOTS][VSP_MSG_SIZE];
};

/*
 * Whether the guest notifies the host of new records.  The host arms its bell before
 * it reads the positions.  The guest moves a position before it reads the bell.  So a
 * record that the host has not seen rings the bell, once.  Replies and changes of the
 * table are always notified, whatever the bell is.
 */
enum vsp_bell {
	VSP_BELL_ALWAYS		= 0,	/* the host has never armed it: notify */
	VSP_BELL_ARMED		= 1,	/* guest: make it RUNG, and notify */
	VSP_BELL_RUNG		= 2,	/* a notification is pending: do not notify */
};

struct vsp_cchan {
	__u32 magic;
	__u32 version;
	__u32 bell;		/* enum vsp_bell; also written by the host */
	__u32 asleep;		/* 1: is being suspended; the host must not read records */
	struct vsp_region life;	/* as in HELLO, for a host that gets no answer */
	__u32 nr_cpus;		/* as in HELLO */
	__u8 reserved[28];
	struct vsp_cchan_ring to_guest;		/* requests */
	struct vsp_cchan_ring to_host;		/* replies */
};

/* ------------------------------------------------------------ D-chan */

/* One exported relay channel, in the channel table. */
struct vsp_channel {
	__u32 state;		/* enum vsp_channel_state */
	__u32 generation;	/* changes with each export; then the host maps it anew */
	__u32 subbuf_size;	/* bytes */
	__u32 n_subbufs;	/* 2 .. VSP_MAX_SUBBUFS */
	__u32 nr_cpus;		/* entries in the index */
	__u32 reserved;
	struct vsp_region index;	/* struct vsp_index[nr_cpus] */
	char modname[VSP_NAME_LEN];
	__u8 reserved2[32];
};

enum vsp_channel_state {
	VSP_CHANNEL_FREE	= 0,
	VSP_CHANNEL_OPEN	= 1,
};

struct vsp_table {
	__u32 magic;
	__u32 version;
	__u32 generation;	/* changes with any entry */
	__u32 reserved[13];
	struct vsp_channel channel[VSP_MAX_CHANNELS];
};

/*
 * Positions in one CPU's relay buffer.
 *
 * pos is the write position: bytes since the channel was opened, with padding.  Its
 * sub-buffer has the number n = pos / subbuf_size, which never wraps, and lies at
 * (n % n_subbufs) * subbuf_size.  pos is moved to the start of a sub-buffer before
 * the first byte overwrites the oldest records there.
 *
 * pad[i] is the padding at the end of the sub-buffer in place i.  It is valid for
 * complete sub-buffers, and is written before pos.
 */
struct vsp_index {
	__u64 pos;
	struct vsp_region buffer;	/* handle 0: this CPU has no buffer */
	__u32 pad[VSP_MAX_SUBBUFS];
	__u64 read;		/* written by the host: seq of the next record to read */
};

/* Starts every record.  len is a multiple of 8 and includes this header. */
struct vsp_record {
	__u32 len;
	__u16 event;		/* enum vsp_event */
	__u16 cpu;
	__u64 seq;		/* per channel and CPU, from 0; a gap is a loss */
	__u64 time_ns;		/* guest's CLOCK_MONOTONIC */
};

enum vsp_event {
	VSP_EVENT_SEND_SIGNAL	= 1,
	VSP_EVENT_OUT_OF_MEMORY	= 2,
	VSP_EVENT_PROCESS_EXIT	= 3,
	VSP_EVENT_HUNG_TASK	= 4,
	VSP_EVENT_BLOCK_ERROR	= 5,
	VSP_EVENT_FS_ERROR	= 6,
	VSP_EVENT_NET_LINK	= 7,
	VSP_EVENT_PROBE_POINT	= 8,
	VSP_EVENT_MEMORY_FAILURE	= 9,
	VSP_EVENT_LOCKUP	= 10,
	VSP_EVENT_DIE		= 11,
};

/* --------------------------------------------------------- crash log */

#define VSP_WORDS_VERSION	1
#define VSP_WORDS_MESSAGE_LEN	256
#define VSP_WORDS_STACK_LEN	2048
#define VSP_WORDS_LOG_LEN	30392

enum vsp_words_kind {
	VSP_WORDS_OOPS		= 0,	/* the kernel continued */
	VSP_WORDS_PANIC		= 1,
};

#define VSP_WORDS_KINDS		2

/*
 * The latest oops, or the panic.  seq is 0 if there was none.  It grows by two with
 * each, and is odd while the slot is being written.  It stays odd if the kernel was
 * stopped meanwhile.  Texts are lines; NUL follows if there is room for it.
 */
struct vsp_words_slot {
	__u32 seq;
	__u32 log_len;		/* bytes of log */
	__u64 time_ns;		/* guest's CLOCK_MONOTONIC */
	__u32 cpu;
	__s32 pid;		/* running thread; 0: idle, or an interrupt of an idle CPU */
	char comm[VSP_COMM_LEN];
	char message[VSP_WORDS_MESSAGE_LEN];	/* of panic(); of an oops: "" */
	char stack[VSP_WORDS_STACK_LEN];	/* symbol+offset/size, innermost first */
	char log[VSP_WORDS_LOG_LEN];	/* end of the kernel's log, as dmesg shows it */
};

struct vsp_words {
	__u32 magic;
	__u32 version;		/* VSP_WORDS_VERSION */
	__u32 reserved[14];
	struct vsp_words_slot slot[VSP_WORDS_KINDS];
};

/* -------------------------------------------------------- heartbeats */

#define VSP_LIFE_VERSION	1
#define VSP_LIFE_PERIOD_MS	500

enum vsp_life_state {
	VSP_LIFE_NONE		= 0,	/* CPU is not online, or does not count yet */
	VSP_LIFE_SHOWN		= 1,
};

/* Counters of one CPU, which alone writes them.  Times: guest's CLOCK_MONOTONIC. */
struct vsp_life_cpu {
	__u32 state;		/* enum vsp_life_state */
	__u32 reserved;
	__u64 irqs;		/* timer interrupts: one per period, also when idle */
	__u64 irq_ns;		/* time of the last */
	__u64 runs;		/* runs of the thread that the timer wakes */
	__u64 run_ns;		/* time of the last */
	__u64 reserved2[3];
};

/* Followed by struct vsp_life_cpu[nr_cpus]. */
struct vsp_life {
	__u32 magic;
	__u32 version;		/* VSP_LIFE_VERSION */
	__u32 period_ms;
	__u32 nr_cpus;
	__u32 reserved[12];
};

/* ------------------------------------------------------------ probes */

#define VSP_WHO_LOGIN_UID	(1 << 0)
#define VSP_WHO_CGROUP		(1 << 1)
#define VSP_WHO_AGE		(1 << 2)
#define VSP_WHO_ELDER		(1 << 3)	/* elder_pid was searched for */

/*
 * Who owns a process, by facts that its user cannot change.  In a record that ends
 * before this structure, all of it is unknown: older probes write such records, and
 * so does send_signal for signals that do not kill.
 */
struct vsp_who {
	__u32 known;		/* VSP_WHO_*: which fields are valid, here and in the record */
	__u32 login_uid;	/* /proc/PID/loginuid; 4294967295: not from a login */
	char cgroup[VSP_CGROUP_LEN];	/* path in cgroup v2; a long one is cut off */
};

#define VSP_SIG_FATAL		(1 << 0)	/* its default action will kill */
#define VSP_SIG_FROM_KERNEL	(1 << 1)	/* not sent by a process */
#define VSP_SIG_GROUP		(1 << 2)	/* to the process, not one thread */
#define VSP_SIG_ADDR		(1 << 3)	/* addr is a fault address */
#define VSP_SIG_IN_IRQ		(1 << 4)	/* sender unknown */
#define VSP_SIG_TRACED		(1 << 5)	/* a tracer decides */
#define VSP_SIG_ASKED		(1 << 6)	/* init or its parent had asked it to end */

struct vsp_send_signal {
	struct vsp_record rec;
	__s32 sig;
	__s32 code;		/* si_code */
	__u32 flags;		/* VSP_SIG_* */
	__u32 sender_uid;
	__u64 addr;		/* si_addr */
	__s32 sender_pid;	/* thread group, as ps shows it */
	__s32 sender_tid;
	char sender_comm[VSP_COMM_LEN];
	__s32 pid;		/* the target's thread id */
	__s32 tgid;
	__s32 parent_pid;	/* thread group of the real parent */
	__u32 uid;
	char comm[VSP_COMM_LEN];	/* of the thread */
	char leader_comm[VSP_COMM_LEN];	/* of the main thread */
	char parent_comm[VSP_COMM_LEN];	/* of the parent's main thread */
	__u32 left_out;		/* signals not recorded before this one: see max_per_s */
	__u32 reserved;
	struct vsp_who who;	/* from here on only if the signal kills */
	__u64 age_ms;		/* since it was forked */
	__s32 elder_pid;	/* if the process is younger than 5 s: an older main process
				 * of its name that lives and that no user has started; or 0
				 */
	__u32 reserved2;
};

enum vsp_oom_constraint {	/* enum oom_constraint */
	VSP_OOM_SYSTEM		= 0,
	VSP_OOM_CPUSET		= 1,
	VSP_OOM_MEMORY_POLICY	= 2,
	VSP_OOM_CGROUP		= 3,
};

struct vsp_out_of_memory {
	struct vsp_record rec;
	__s32 asker_pid;	/* thread group that asked for memory */
	__s32 order;		/* of the allocation; -1: by sysrq */
	__u32 constraint;	/* enum vsp_oom_constraint */
	__u32 gfp_mask;
	char asker_comm[VSP_COMM_LEN];
	__u64 cgroup_ino;	/* inode of the memory cgroup; 0: system */
	__u64 free_kb;		/* free memory of the system */
	__u64 total_kb;		/* memory that may be used under the constraint */
	__s32 pid;		/* the victim's thread group */
	__s32 parent_pid;
	__u32 uid;
	__s32 oom_score_adj;
	char comm[VSP_COMM_LEN];
	char parent_comm[VSP_COMM_LEN];
	__u64 total_vm_kb;	/* the victim's memory */
	__u64 anon_rss_kb;
	__u64 file_rss_kb;
	__u64 shmem_rss_kb;
	__u64 pgtables_kb;
	struct vsp_who who;
	__u64 age_ms;		/* since it was forked */
	__s32 elder_pid;	/* if the process is younger than 5 s: an older main process
				 * of its name that lives and that no user has started; or 0
				 */
	__u32 left_out;		/* of users' own before this one, too many to record */
};

#define VSP_EXIT_CORE		(1 << 0)	/* dumped core */
#define VSP_EXIT_OOM		(1 << 1)	/* was chosen by the OOM killer */
#define VSP_EXIT_ASKED		(1 << 2)	/* init or its parent had asked it to end */

/* The last thread of a process has ended. */
struct vsp_process_exit {
	struct vsp_record rec;
	__s32 pid;		/* thread group */
	__s32 parent_pid;
	__u32 uid;
	__u32 flags;		/* VSP_EXIT_* */
	__s32 status;		/* given to exit(3), 0 .. 255; 0 if killed */
	__s32 sig;		/* signal that killed it; 0: it has exited by itself */
	__u64 age_ms;		/* since it was forked */
	char comm[VSP_COMM_LEN];	/* of the main thread */
	char parent_comm[VSP_COMM_LEN];
	struct vsp_who who;
	__u32 left_out;		/* of users' own before this one, too many to record */
	__u32 reserved;
};

/* A task that has been in uninterruptible sleep for long. */
struct vsp_hung_task {
	struct vsp_record rec;
	__s32 pid;		/* thread id */
	__s32 tgid;
	__s32 parent_pid;
	__u32 waited_s;		/* since it was first seen so */
	char comm[VSP_COMM_LEN];	/* of the thread */
	char leader_comm[VSP_COMM_LEN];	/* of the main thread */
	char parent_comm[VSP_COMM_LEN];
	struct vsp_who who;
};

enum vsp_block_op {
	VSP_BLOCK_READ		= 0,
	VSP_BLOCK_WRITE		= 1,
	VSP_BLOCK_FLUSH		= 2,
	VSP_BLOCK_DISCARD	= 3,
	VSP_BLOCK_OTHER		= 4,
};

/* A request to a block device has failed. */
struct vsp_block_error {
	struct vsp_record rec;
	__u32 dev;		/* major << 20 | minor, of the whole disk */
	__u32 op;		/* enum vsp_block_op */
	__u64 sector;		/* first sector of the request, of 512 bytes */
	__u32 bytes;		/* how many of them failed */
	__s32 error;		/* errno, positive */
	__u32 left_out;		/* errors before this one, too many to record */
	__u32 reserved;
	char disk[VSP_DISK_LEN];	/* "vda" */
};

/* A file system refuses writes because of an error. */
struct vsp_fs_error {
	struct vsp_record rec;
	__u32 dev;		/* major << 20 | minor; 0: unknown */
	__s32 error;		/* errno, positive; ESHUTDOWN: by an administrator */
	__u32 line;		/* of where; 0: unknown */
	__u32 left_out;		/* errors before this one, too many to record */
	char fstype[VSP_FSTYPE_LEN];
	char disk[VSP_DISK_LEN];	/* "vda1"; "": unknown */
	char where[VSP_WHERE_LEN];	/* function or source file; "": unknown */
	char mount[VSP_MOUNT_LEN];	/* path, or its end; "": nowhere, or unknown */
};

enum vsp_net_change {
	VSP_NET_LINK_LOST	= 1,	/* carrier */
	VSP_NET_LINK_BACK	= 2,
	VSP_NET_DOWN		= 3,	/* by an administrator */
	VSP_NET_UP		= 4,
	VSP_NET_REMOVED		= 5,	/* the device itself */
	VSP_NET_ADDRESS_LOST	= 6,	/* its last IPv4 address */
	VSP_NET_ADDRESS_BACK	= 7,	/* the first again */
};

/* The state of a network device has changed. */
struct vsp_net_link {
	struct vsp_record rec;
	__u32 ifindex;
	__u32 change;		/* enum vsp_net_change */
	__u8 address[4];	/* IPv4; 0.0.0.0 if it is not about one */
	__u32 reserved;
	char device[VSP_IFNAME_LEN];
};

enum vsp_mf_result {	/* enum mf_result */
	VSP_MF_IGNORED		= 0,
	VSP_MF_FAILED		= 1,
	VSP_MF_DELAYED		= 2,
	VSP_MF_RECOVERED	= 3,
};

/* The hardware has lost a page of memory; result says how the kernel handled it. */
struct vsp_memory_failure {
	struct vsp_record rec;
	__u64 pfn;
	__u32 result;		/* enum vsp_mf_result */
	__u32 reserved;
	char type[VSP_PAGE_TYPE_LEN];	/* of the page, as the kernel calls it */
};

enum vsp_lockup_kind {
	VSP_LOCKUP_SOFT		= 1,	/* it has not run another task */
	VSP_LOCKUP_RCU		= 2,	/* holds up an RCU grace period */
};

/* A CPU is stuck. */
struct vsp_lockup {
	struct vsp_record rec;
	__u32 kind;		/* enum vsp_lockup_kind */
	__u32 cpu;		/* the stuck CPU; rec.cpu is the one that found it */
	__s32 pid;		/* thread that runs there; 0: idle, or unknown */
	__s32 tgid;
	__u32 left_out;		/* lockups before this one, too many to record */
	__u32 reserved;
	char comm[VSP_COMM_LEN];
};

enum vsp_die_kind {
	VSP_DIE_OOPS		= 1,
	VSP_DIE_PANIC		= 2,
};

/* The kernel has an oops, or panics. */
struct vsp_die {
	struct vsp_record rec;
	__u32 kind;		/* enum vsp_die_kind */
	__s32 trapnr;		/* only of an oops, as signr, err and ip; page fault: 0 */
	__s32 signr;
	__s32 pid;		/* running thread */
	__s32 tgid;
	__u32 reserved;
	__s64 err;		/* the trap's error code */
	__u64 ip;
	char comm[VSP_COMM_LEN];
	char leader_comm[VSP_COMM_LEN];
	char str[VSP_DIE_LEN];	/* "Oops", or the message of the panic */
	char symbol[VSP_SYMBOL_LEN];	/* where ip is: symbol+offset/size */
};

#define VSP_POINT_ARGS		8
#define VSP_POINT_TEXT		256

/*
 * A hit of a dynamic probe.  The host has defined its values, and knows their types.
 * The texts share text[] in equal parts, each a multiple of 8 bytes, in the order of
 * their values.  The record ends with the last text.
 */
struct vsp_probe_point {
	struct vsp_record rec;
	__u32 id;		/* of the definition */
	__u32 left_out;		/* hits before this one, too many to record */
	__u32 missed;		/* hits since the load that the kernel could not handle */
	__u32 n_args;
	__u32 unread;		/* bit i: value i could not be read from memory */
	__s32 pid;		/* running thread */
	__s32 tgid;
	__u32 reserved;
	char comm[VSP_COMM_LEN];
	__u64 value[VSP_POINT_ARGS];	/* 0 for a text */
	char text[VSP_POINT_TEXT];
};

/* ------------------------------------------------------------ Xen */

/*
 * The directory page of a region on Xen.  The region's handle is the grant reference
 * of this page, which lists the grant references of the region's pages.  The C-chan
 * page is granted itself, without a directory.
 *
 * xenstore, device/vesper/0 of the guest (the frontend writes):
 *   protocol       VSP_ABI_VERSION
 *   ring-ref       grant of the C-chan page
 *   event-channel  for both C-chan and D-chan
 *   state          3 when these nodes are written; 4 when the backend is 4
 * backend/vesper/DOMID/0 of the host (the backend writes): state 2, 4; 5, 6.
 */
struct vsp_xen_dir {
	__u32 pages;
	__u32 reserved[7];
	__u32 ref[VSP_MAX_REGION_PAGES];
};

/* -------------------------------------------------------- ivshmem */

enum vsp_shm_state {
	VSP_SHM_AWAY		= 0,	/* no frontend is loaded */
	VSP_SHM_IDLE		= 1,	/* a frontend is loaded; it shares nothing */
	VSP_SHM_ACTIVE		= 2,	/* it shares C-chan page and regions */
};

/*
 * Starts the memory of the ivshmem device (PCI 1af4:1110, BAR 2).  A region's handle
 * is its offset from here, in bytes.  On the ivshmem server the guest is peer 0 and
 * the host is peer 1; each has one vector.  Without the host's mark in its memory the
 * device has another purpose, and the guest does not touch it.
 *
 * To activate the guest, the host writes a number other than 0 to wanted, another one
 * each time.  To deactivate it, the host writes 0.  Then it rings the doorbell.  The
 * guest obeys, copies the number to answer, and rings.  This memory outlives a reset
 * of the guest.  The answer shows that the kernel that runs now has obeyed.  If state
 * is ACTIVE and epoch has not changed, the host knows the regions already.
 */
struct vsp_shm_head {
	/* written by the guest */
	__u32 magic;
	__u32 version;		/* VSP_ABI_VERSION */
	__u32 state;		/* enum vsp_shm_state */
	__u32 epoch;		/* changes each time state becomes ACTIVE */
	__u32 answer;
	__u32 reserved;
	__u64 cchan;		/* offset of the C-chan page, in bytes */
	__u64 reserved2[4];
	/* written by the host */
	__u32 mark;		/* VSP_SHM_MAGIC, written before QEMU gets the memory */
	__u32 wanted;
	__u32 reserved3[14];
};

#endif /* VESPER_ABI_H */
