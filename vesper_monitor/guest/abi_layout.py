# SPDX-License-Identifier: GPL-2.0-or-later
"""Made of vesper_abi.h by vesper_monitor/guest/abi_make.py; not to be edited.

Import these from :mod:`vesper_monitor.guest.abi`.
"""

from __future__ import annotations

import ctypes
import enum
from typing import ClassVar, TypeAlias

#: A field may be called bytes.
_Text: TypeAlias = bytes

ABI_VERSION = 1
CCHAN_MAGIC = 0x43505356
TABLE_MAGIC = 0x54505356
LIFE_MAGIC = 0x4c505356
WORDS_MAGIC = 0x57505356
SHM_MAGIC = 0x4d505356
PAGE_SIZE = 4096
NAME_LEN = 56
RELEASE_LEN = 65
VERMAGIC_LEN = 111
COMM_LEN = 16
DISK_LEN = 32
FSTYPE_LEN = 16
IFNAME_LEN = 16
WHERE_LEN = 40
MOUNT_LEN = 128
PAGE_TYPE_LEN = 48
DIE_LEN = 128
SYMBOL_LEN = 96
CGROUP_LEN = 128
MAX_CHANNELS = 16
MAX_SUBBUFS = 8
MAX_REGION_PAGES = 1016
CCHAN_SLOTS = 4
MSG_SIZE = 256
MAX_NAMES = 5
PROCESS_USERS_OWN = 1 << 0
WORDS_VERSION = 1
WORDS_MESSAGE_LEN = 256
WORDS_STACK_LEN = 2048
WORDS_LOG_LEN = 30392
WORDS_KINDS = 2
LIFE_VERSION = 1
LIFE_PERIOD_MS = 500
WHO_LOGIN_UID = 1 << 0
WHO_CGROUP = 1 << 1
WHO_AGE = 1 << 2
WHO_ELDER = 1 << 3
SIG_FATAL = 1 << 0
SIG_FROM_KERNEL = 1 << 1
SIG_GROUP = 1 << 2
SIG_ADDR = 1 << 3
SIG_IN_IRQ = 1 << 4
SIG_TRACED = 1 << 5
SIG_ASKED = 1 << 6
EXIT_CORE = 1 << 0
EXIT_OOM = 1 << 1
EXIT_ASKED = 1 << 2
POINT_ARGS = 8
POINT_TEXT = 256


class Region(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_region"
    handle: int
    pages: int
    _fields_ = [
        ("handle", ctypes.c_uint64),
        ("pages", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class MsgType(enum.IntEnum):
    """enum vsp_msg_type"""

    HELLO = 1
    MEM_ALLOC = 2
    MEM_FREE = 3
    LOAD = 4
    UNLOAD = 5
    PROCESSES = 6


class MsgHdr(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_hdr"
    type: int
    seq: int
    status: int
    version: int
    _fields_ = [
        ("type", ctypes.c_uint32),
        ("seq", ctypes.c_uint32),
        ("status", ctypes.c_int32),
        ("version", ctypes.c_uint32),
    ]


class MsgHello(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_hello"
    hdr: MsgHdr
    features: int
    nr_cpus: int
    table: Region
    boot_id: int
    release: _Text
    vermagic: _Text
    words: Region
    life: Region
    _fields_ = [
        ("hdr", MsgHdr),
        ("features", ctypes.c_uint32),
        ("nr_cpus", ctypes.c_uint32),
        ("table", Region),
        ("boot_id", ctypes.c_uint64),
        ("release", ctypes.c_char * RELEASE_LEN),
        ("vermagic", ctypes.c_char * VERMAGIC_LEN),
        ("words", Region),
        ("life", Region),
    ]


class MsgMem(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_mem"
    hdr: MsgHdr
    region: Region
    _fields_ = [
        ("hdr", MsgHdr),
        ("region", Region),
    ]


class MsgLoad(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_load"
    hdr: MsgHdr
    region: Region
    image_len: int
    params_len: int
    crc32: int
    name: _Text
    _fields_ = [
        ("hdr", MsgHdr),
        ("region", Region),
        ("image_len", ctypes.c_uint32),
        ("params_len", ctypes.c_uint32),
        ("crc32", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("name", ctypes.c_char * NAME_LEN),
    ]


class MsgUnload(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_unload"
    hdr: MsgHdr
    name: _Text
    _fields_ = [
        ("hdr", MsgHdr),
        ("name", ctypes.c_char * NAME_LEN),
    ]


class MsgResult(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_result"
    hdr: MsgHdr
    text: _Text
    _fields_ = [
        ("hdr", MsgHdr),
        ("text", ctypes.c_char * 240),
    ]


class Process(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_process"
    name: _Text
    pid: int
    uid: int
    flags: int
    age_ms: int
    _fields_ = [
        ("name", ctypes.c_char * COMM_LEN),
        ("pid", ctypes.c_int32),
        ("uid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("age_ms", ctypes.c_uint64),
    ]


class MsgProcesses(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_processes"
    hdr: MsgHdr
    uptime_ms: int
    process: ctypes.Array[Process]
    _fields_ = [
        ("hdr", MsgHdr),
        ("uptime_ms", ctypes.c_uint64),
        ("process", Process * MAX_NAMES),
    ]


class CchanRing(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_cchan_ring"
    prod: int
    cons: int
    slot: ctypes.Array[ctypes.Array[ctypes.c_uint8]]
    _fields_ = [
        ("prod", ctypes.c_uint32),
        ("cons", ctypes.c_uint32),
        ("reserved", ctypes.c_uint8 * 56),
        ("slot", (ctypes.c_uint8 * MSG_SIZE) * CCHAN_SLOTS),
    ]


class Bell(enum.IntEnum):
    """enum vsp_bell"""

    ALWAYS = 0
    ARMED = 1
    RUNG = 2


class Cchan(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_cchan"
    magic: int
    version: int
    bell: int
    asleep: int
    life: Region
    nr_cpus: int
    to_guest: CchanRing
    to_host: CchanRing
    _fields_ = [
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("bell", ctypes.c_uint32),
        ("asleep", ctypes.c_uint32),
        ("life", Region),
        ("nr_cpus", ctypes.c_uint32),
        ("reserved", ctypes.c_uint8 * 28),
        ("to_guest", CchanRing),
        ("to_host", CchanRing),
    ]


class Channel(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_channel"
    state: int
    generation: int
    subbuf_size: int
    n_subbufs: int
    nr_cpus: int
    index: Region
    modname: _Text
    _fields_ = [
        ("state", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("subbuf_size", ctypes.c_uint32),
        ("n_subbufs", ctypes.c_uint32),
        ("nr_cpus", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("index", Region),
        ("modname", ctypes.c_char * NAME_LEN),
        ("reserved2", ctypes.c_uint8 * 32),
    ]


class ChannelState(enum.IntEnum):
    """enum vsp_channel_state"""

    FREE = 0
    OPEN = 1


class Table(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_table"
    magic: int
    version: int
    generation: int
    channel: ctypes.Array[Channel]
    _fields_ = [
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 13),
        ("channel", Channel * MAX_CHANNELS),
    ]


class Index(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_index"
    pos: int
    buffer: Region
    pad: ctypes.Array[ctypes.c_uint32]
    read: int
    _fields_ = [
        ("pos", ctypes.c_uint64),
        ("buffer", Region),
        ("pad", ctypes.c_uint32 * MAX_SUBBUFS),
        ("read", ctypes.c_uint64),
    ]


class Record(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_record"
    len: int
    event: int
    cpu: int
    seq: int
    time_ns: int
    _fields_ = [
        ("len", ctypes.c_uint32),
        ("event", ctypes.c_uint16),
        ("cpu", ctypes.c_uint16),
        ("seq", ctypes.c_uint64),
        ("time_ns", ctypes.c_uint64),
    ]


class EventType(enum.IntEnum):
    """enum vsp_event"""

    SEND_SIGNAL = 1
    OUT_OF_MEMORY = 2
    PROCESS_EXIT = 3
    HUNG_TASK = 4
    BLOCK_ERROR = 5
    FS_ERROR = 6
    NET_LINK = 7
    PROBE_POINT = 8
    MEMORY_FAILURE = 9
    LOCKUP = 10
    DIE = 11


class WordsKind(enum.IntEnum):
    """enum vsp_words_kind"""

    OOPS = 0
    PANIC = 1


class WordsSlot(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_words_slot"
    seq: int
    log_len: int
    time_ns: int
    cpu: int
    pid: int
    comm: _Text
    message: _Text
    stack: _Text
    log: _Text
    _fields_ = [
        ("seq", ctypes.c_uint32),
        ("log_len", ctypes.c_uint32),
        ("time_ns", ctypes.c_uint64),
        ("cpu", ctypes.c_uint32),
        ("pid", ctypes.c_int32),
        ("comm", ctypes.c_char * COMM_LEN),
        ("message", ctypes.c_char * WORDS_MESSAGE_LEN),
        ("stack", ctypes.c_char * WORDS_STACK_LEN),
        ("log", ctypes.c_char * WORDS_LOG_LEN),
    ]


class Words(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_words"
    magic: int
    version: int
    slot: ctypes.Array[WordsSlot]
    _fields_ = [
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 14),
        ("slot", WordsSlot * WORDS_KINDS),
    ]


class LifeState(enum.IntEnum):
    """enum vsp_life_state"""

    NONE = 0
    SHOWN = 1


class LifeCpu(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_life_cpu"
    state: int
    irqs: int
    irq_ns: int
    runs: int
    run_ns: int
    _fields_ = [
        ("state", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("irqs", ctypes.c_uint64),
        ("irq_ns", ctypes.c_uint64),
        ("runs", ctypes.c_uint64),
        ("run_ns", ctypes.c_uint64),
        ("reserved2", ctypes.c_uint64 * 3),
    ]


class Life(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_life"
    magic: int
    version: int
    period_ms: int
    nr_cpus: int
    _fields_ = [
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("period_ms", ctypes.c_uint32),
        ("nr_cpus", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 12),
    ]


class Who(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_who"
    known: int
    login_uid: int
    cgroup: _Text
    _fields_ = [
        ("known", ctypes.c_uint32),
        ("login_uid", ctypes.c_uint32),
        ("cgroup", ctypes.c_char * CGROUP_LEN),
    ]


class SendSignal(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_send_signal"
    rec: Record
    sig: int
    code: int
    flags: int
    sender_uid: int
    addr: int
    sender_pid: int
    sender_tid: int
    sender_comm: _Text
    pid: int
    tgid: int
    parent_pid: int
    uid: int
    comm: _Text
    leader_comm: _Text
    parent_comm: _Text
    left_out: int
    who: Who
    age_ms: int
    elder_pid: int
    _fields_ = [
        ("rec", Record),
        ("sig", ctypes.c_int32),
        ("code", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
        ("sender_uid", ctypes.c_uint32),
        ("addr", ctypes.c_uint64),
        ("sender_pid", ctypes.c_int32),
        ("sender_tid", ctypes.c_int32),
        ("sender_comm", ctypes.c_char * COMM_LEN),
        ("pid", ctypes.c_int32),
        ("tgid", ctypes.c_int32),
        ("parent_pid", ctypes.c_int32),
        ("uid", ctypes.c_uint32),
        ("comm", ctypes.c_char * COMM_LEN),
        ("leader_comm", ctypes.c_char * COMM_LEN),
        ("parent_comm", ctypes.c_char * COMM_LEN),
        ("left_out", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("who", Who),
        ("age_ms", ctypes.c_uint64),
        ("elder_pid", ctypes.c_int32),
        ("reserved2", ctypes.c_uint32),
    ]


class OomConstraint(enum.IntEnum):
    """enum vsp_oom_constraint"""

    SYSTEM = 0
    CPUSET = 1
    MEMORY_POLICY = 2
    CGROUP = 3


class OutOfMemory(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_out_of_memory"
    rec: Record
    asker_pid: int
    order: int
    constraint: int
    gfp_mask: int
    asker_comm: _Text
    cgroup_ino: int
    free_kb: int
    total_kb: int
    pid: int
    parent_pid: int
    uid: int
    oom_score_adj: int
    comm: _Text
    parent_comm: _Text
    total_vm_kb: int
    anon_rss_kb: int
    file_rss_kb: int
    shmem_rss_kb: int
    pgtables_kb: int
    who: Who
    age_ms: int
    elder_pid: int
    left_out: int
    _fields_ = [
        ("rec", Record),
        ("asker_pid", ctypes.c_int32),
        ("order", ctypes.c_int32),
        ("constraint", ctypes.c_uint32),
        ("gfp_mask", ctypes.c_uint32),
        ("asker_comm", ctypes.c_char * COMM_LEN),
        ("cgroup_ino", ctypes.c_uint64),
        ("free_kb", ctypes.c_uint64),
        ("total_kb", ctypes.c_uint64),
        ("pid", ctypes.c_int32),
        ("parent_pid", ctypes.c_int32),
        ("uid", ctypes.c_uint32),
        ("oom_score_adj", ctypes.c_int32),
        ("comm", ctypes.c_char * COMM_LEN),
        ("parent_comm", ctypes.c_char * COMM_LEN),
        ("total_vm_kb", ctypes.c_uint64),
        ("anon_rss_kb", ctypes.c_uint64),
        ("file_rss_kb", ctypes.c_uint64),
        ("shmem_rss_kb", ctypes.c_uint64),
        ("pgtables_kb", ctypes.c_uint64),
        ("who", Who),
        ("age_ms", ctypes.c_uint64),
        ("elder_pid", ctypes.c_int32),
        ("left_out", ctypes.c_uint32),
    ]


class ProcessExit(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_process_exit"
    rec: Record
    pid: int
    parent_pid: int
    uid: int
    flags: int
    status: int
    sig: int
    age_ms: int
    comm: _Text
    parent_comm: _Text
    who: Who
    left_out: int
    _fields_ = [
        ("rec", Record),
        ("pid", ctypes.c_int32),
        ("parent_pid", ctypes.c_int32),
        ("uid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("status", ctypes.c_int32),
        ("sig", ctypes.c_int32),
        ("age_ms", ctypes.c_uint64),
        ("comm", ctypes.c_char * COMM_LEN),
        ("parent_comm", ctypes.c_char * COMM_LEN),
        ("who", Who),
        ("left_out", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class HungTask(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_hung_task"
    rec: Record
    pid: int
    tgid: int
    parent_pid: int
    waited_s: int
    comm: _Text
    leader_comm: _Text
    parent_comm: _Text
    who: Who
    _fields_ = [
        ("rec", Record),
        ("pid", ctypes.c_int32),
        ("tgid", ctypes.c_int32),
        ("parent_pid", ctypes.c_int32),
        ("waited_s", ctypes.c_uint32),
        ("comm", ctypes.c_char * COMM_LEN),
        ("leader_comm", ctypes.c_char * COMM_LEN),
        ("parent_comm", ctypes.c_char * COMM_LEN),
        ("who", Who),
    ]


class BlockOp(enum.IntEnum):
    """enum vsp_block_op"""

    READ = 0
    WRITE = 1
    FLUSH = 2
    DISCARD = 3
    OTHER = 4


class BlockError(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_block_error"
    rec: Record
    dev: int
    op: int
    sector: int
    bytes: int
    error: int
    left_out: int
    disk: _Text
    _fields_ = [
        ("rec", Record),
        ("dev", ctypes.c_uint32),
        ("op", ctypes.c_uint32),
        ("sector", ctypes.c_uint64),
        ("bytes", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("left_out", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("disk", ctypes.c_char * DISK_LEN),
    ]


class FsError(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_fs_error"
    rec: Record
    dev: int
    error: int
    line: int
    left_out: int
    fstype: _Text
    disk: _Text
    where: _Text
    mount: _Text
    _fields_ = [
        ("rec", Record),
        ("dev", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("line", ctypes.c_uint32),
        ("left_out", ctypes.c_uint32),
        ("fstype", ctypes.c_char * FSTYPE_LEN),
        ("disk", ctypes.c_char * DISK_LEN),
        ("where", ctypes.c_char * WHERE_LEN),
        ("mount", ctypes.c_char * MOUNT_LEN),
    ]


class NetChange(enum.IntEnum):
    """enum vsp_net_change"""

    LINK_LOST = 1
    LINK_BACK = 2
    DOWN = 3
    UP = 4
    REMOVED = 5
    ADDRESS_LOST = 6
    ADDRESS_BACK = 7


class NetLink(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_net_link"
    rec: Record
    ifindex: int
    change: int
    address: ctypes.Array[ctypes.c_uint8]
    device: _Text
    _fields_ = [
        ("rec", Record),
        ("ifindex", ctypes.c_uint32),
        ("change", ctypes.c_uint32),
        ("address", ctypes.c_uint8 * 4),
        ("reserved", ctypes.c_uint32),
        ("device", ctypes.c_char * IFNAME_LEN),
    ]


class MfResult(enum.IntEnum):
    """enum vsp_mf_result"""

    IGNORED = 0
    FAILED = 1
    DELAYED = 2
    RECOVERED = 3


class MemoryFailure(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_memory_failure"
    rec: Record
    pfn: int
    result: int
    type: _Text
    _fields_ = [
        ("rec", Record),
        ("pfn", ctypes.c_uint64),
        ("result", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("type", ctypes.c_char * PAGE_TYPE_LEN),
    ]


class LockupKind(enum.IntEnum):
    """enum vsp_lockup_kind"""

    SOFT = 1
    RCU = 2


class Lockup(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_lockup"
    rec: Record
    kind: int
    cpu: int
    pid: int
    tgid: int
    left_out: int
    comm: _Text
    _fields_ = [
        ("rec", Record),
        ("kind", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("pid", ctypes.c_int32),
        ("tgid", ctypes.c_int32),
        ("left_out", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("comm", ctypes.c_char * COMM_LEN),
    ]


class DieKind(enum.IntEnum):
    """enum vsp_die_kind"""

    OOPS = 1
    PANIC = 2


class Die(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_die"
    rec: Record
    kind: int
    trapnr: int
    signr: int
    pid: int
    tgid: int
    err: int
    ip: int
    comm: _Text
    leader_comm: _Text
    str: _Text
    symbol: _Text
    _fields_ = [
        ("rec", Record),
        ("kind", ctypes.c_uint32),
        ("trapnr", ctypes.c_int32),
        ("signr", ctypes.c_int32),
        ("pid", ctypes.c_int32),
        ("tgid", ctypes.c_int32),
        ("reserved", ctypes.c_uint32),
        ("err", ctypes.c_int64),
        ("ip", ctypes.c_uint64),
        ("comm", ctypes.c_char * COMM_LEN),
        ("leader_comm", ctypes.c_char * COMM_LEN),
        ("str", ctypes.c_char * DIE_LEN),
        ("symbol", ctypes.c_char * SYMBOL_LEN),
    ]


class ProbePoint(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_probe_point"
    rec: Record
    id: int
    left_out: int
    missed: int
    n_args: int
    unread: int
    pid: int
    tgid: int
    comm: _Text
    value: ctypes.Array[ctypes.c_uint64]
    text: _Text
    _fields_ = [
        ("rec", Record),
        ("id", ctypes.c_uint32),
        ("left_out", ctypes.c_uint32),
        ("missed", ctypes.c_uint32),
        ("n_args", ctypes.c_uint32),
        ("unread", ctypes.c_uint32),
        ("pid", ctypes.c_int32),
        ("tgid", ctypes.c_int32),
        ("reserved", ctypes.c_uint32),
        ("comm", ctypes.c_char * COMM_LEN),
        ("value", ctypes.c_uint64 * POINT_ARGS),
        ("text", ctypes.c_char * POINT_TEXT),
    ]


class XenDir(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_xen_dir"
    pages: int
    ref: ctypes.Array[ctypes.c_uint32]
    _fields_ = [
        ("pages", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 7),
        ("ref", ctypes.c_uint32 * MAX_REGION_PAGES),
    ]


class ShmState(enum.IntEnum):
    """enum vsp_shm_state"""

    AWAY = 0
    IDLE = 1
    ACTIVE = 2


class ShmHead(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_shm_head"
    magic: int
    version: int
    state: int
    epoch: int
    answer: int
    cchan: int
    mark: int
    wanted: int
    _fields_ = [
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("state", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
        ("answer", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("cchan", ctypes.c_uint64),
        ("reserved2", ctypes.c_uint64 * 4),
        ("mark", ctypes.c_uint32),
        ("wanted", ctypes.c_uint32),
        ("reserved3", ctypes.c_uint32 * 14),
    ]
