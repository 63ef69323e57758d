# SPDX-License-Identifier: GPL-2.0-or-later
"""Python's view of ``probe_modules/include/vesper_abi.h``.

That header is the specification; this file repeats its layout and no more.
``tests/test_abi.py`` compares the two field by field and fails for anything
that one of them has and the other has not.

A structure is read from a *copy* (``Hello.from_buffer_copy(data)``), never in
place: the guest may change its memory at any time. The few numbers that must
be read from live memory go through :func:`load_u32` and :func:`load_u64`.
"""

from __future__ import annotations

import ctypes
import enum
from typing import ClassVar

ABI_VERSION = 1
CCHAN_MAGIC = 0x43505356
TABLE_MAGIC = 0x54505356
LIFE_MAGIC = 0x4C505356
WORDS_MAGIC = 0x57505356
PAGE_SIZE = 4096

NAME_LEN = 56
RELEASE_LEN = 65
VERMAGIC_LEN = 111
COMM_LEN = 16
DISK_LEN = 32
FSTYPE_LEN = 16
IFNAME_LEN = 16
WHERE_LEN = 40
PAGE_TYPE_LEN = 48
DIE_LEN = 128
SYMBOL_LEN = 96

MAX_CHANNELS = 16
MAX_SUBBUFS = 8
MAX_REGION_PAGES = 1016

CCHAN_SLOTS = 4
MSG_SIZE = 256

WORDS_VERSION = 1
WORDS_MESSAGE_LEN = 256
WORDS_STACK_LEN = 2048
WORDS_LOG_LEN = 30392
WORDS_KINDS = 2

LIFE_VERSION = 1
LIFE_PERIOD_MS = 500

SIG_FATAL = 1 << 0
SIG_FROM_KERNEL = 1 << 1
SIG_GROUP = 1 << 2
SIG_ADDR = 1 << 3
SIG_IN_IRQ = 1 << 4
SIG_TRACED = 1 << 5

POINT_ARGS = 8
POINT_TEXT = 256

EXIT_CORE = 1 << 0
EXIT_OOM = 1 << 1


class MsgType(enum.IntEnum):
    """enum vsp_msg_type"""

    HELLO = 1
    MEM_ALLOC = 2
    MEM_FREE = 3
    LOAD = 4
    UNLOAD = 5


class ChannelState(enum.IntEnum):
    """enum vsp_channel_state"""

    FREE = 0
    OPEN = 1


class WordsKind(enum.IntEnum):
    """enum vsp_words_kind"""

    OOPS = 0
    PANIC = 1


class LifeState(enum.IntEnum):
    """enum vsp_life_state"""

    NONE = 0
    SHOWN = 1


class EventType(enum.IntEnum):
    """enum vsp_event"""

    SEND_SIGNAL = 1
    OUT_OF_MEMORY = 2
    PROCESS_EXIT = 3
    HUNG_TASK = 4
    BLOCK_ERROR = 5
    FILESYSTEM = 6
    NET_LINK = 7
    PROBE_POINT = 8
    MEMORY_FAILURE = 9
    LOCKUP = 10
    DIE = 11


class OomConstraint(enum.IntEnum):
    """enum vsp_oom_constraint"""

    SYSTEM = 0
    CPUSET = 1
    MEMORY_POLICY = 2
    CGROUP = 3


class BlockOp(enum.IntEnum):
    """enum vsp_block_op"""

    READ = 0
    WRITE = 1
    FLUSH = 2
    DISCARD = 3
    OTHER = 4


class NetChange(enum.IntEnum):
    """enum vsp_net_change"""

    LINK_LOST = 1
    LINK_BACK = 2
    DOWN = 3
    UP = 4
    REMOVED = 5
    ADDRESS_LOST = 6
    ADDRESS_BACK = 7


class MfResult(enum.IntEnum):
    """enum vsp_mf_result"""

    IGNORED = 0
    FAILED = 1
    DELAYED = 2
    RECOVERED = 3


class LockupKind(enum.IntEnum):
    """enum vsp_lockup_kind"""

    SOFT = 1
    RCU = 2


class DieKind(enum.IntEnum):
    """enum vsp_die_kind"""

    OOPS = 1
    PANIC = 2


_u8, _u16, _u32, _u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
_s32, _s64, _char = ctypes.c_int32, ctypes.c_int64, ctypes.c_char


class Region(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_region"
    handle: int
    pages: int
    reserved: int
    _fields_ = [("handle", _u64), ("pages", _u32), ("reserved", _u32)]


# ---------------------------------------------------------------- C-chan


class MsgHdr(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_hdr"
    type: int
    seq: int
    status: int
    version: int
    _fields_ = [("type", _u32), ("seq", _u32), ("status", _s32), ("version", _u32)]


class MsgHello(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_hello"
    hdr: MsgHdr
    features: int
    nr_cpus: int
    table: Region
    boot_id: int
    release: bytes
    vermagic: bytes
    words: Region
    life: Region
    _fields_ = [
        ("hdr", MsgHdr),
        ("features", _u32),
        ("nr_cpus", _u32),
        ("table", Region),
        ("boot_id", _u64),
        ("release", _char * RELEASE_LEN),
        ("vermagic", _char * VERMAGIC_LEN),
        ("words", Region),
        ("life", Region),
    ]


class MsgMem(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_mem"
    hdr: MsgHdr
    region: Region
    _fields_ = [("hdr", MsgHdr), ("region", Region)]


class MsgLoad(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_load"
    hdr: MsgHdr
    region: Region
    image_len: int
    params_len: int
    crc32: int
    reserved: int
    name: bytes
    _fields_ = [
        ("hdr", MsgHdr),
        ("region", Region),
        ("image_len", _u32),
        ("params_len", _u32),
        ("crc32", _u32),
        ("reserved", _u32),
        ("name", _char * NAME_LEN),
    ]


class MsgUnload(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_unload"
    hdr: MsgHdr
    name: bytes
    _fields_ = [("hdr", MsgHdr), ("name", _char * NAME_LEN)]


class MsgResult(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_msg_result"
    hdr: MsgHdr
    text: bytes
    _fields_ = [("hdr", MsgHdr), ("text", _char * 240)]


class CchanRing(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_cchan_ring"
    prod: int
    cons: int
    _fields_ = [
        ("prod", _u32),
        ("cons", _u32),
        ("reserved", _u8 * 56),
        ("slot", (_u8 * MSG_SIZE) * CCHAN_SLOTS),
    ]


class Cchan(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_cchan"
    magic: int
    version: int
    _fields_ = [
        ("magic", _u32),
        ("version", _u32),
        ("reserved", _u8 * 56),
        ("to_guest", CchanRing),
        ("to_host", CchanRing),
    ]


# ---------------------------------------------------------------- D-chan


class Channel(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_channel"
    state: int
    generation: int
    subbuf_size: int
    n_subbufs: int
    nr_cpus: int
    reserved: int
    index: Region
    modname: bytes
    _fields_ = [
        ("state", _u32),
        ("generation", _u32),
        ("subbuf_size", _u32),
        ("n_subbufs", _u32),
        ("nr_cpus", _u32),
        ("reserved", _u32),
        ("index", Region),
        ("modname", _char * NAME_LEN),
        ("reserved2", _u8 * 32),
    ]


class Table(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_table"
    magic: int
    version: int
    generation: int
    channel: ctypes.Array[Channel]
    _fields_ = [
        ("magic", _u32),
        ("version", _u32),
        ("generation", _u32),
        ("reserved", _u32 * 13),
        ("channel", Channel * MAX_CHANNELS),
    ]


class Index(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_index"
    pos: int
    buffer: Region
    pad: ctypes.Array[ctypes.c_uint32]
    reserved: int
    _fields_ = [
        ("pos", _u64),
        ("buffer", Region),
        ("pad", _u32 * MAX_SUBBUFS),
        ("reserved", _u64),
    ]


class Record(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_record"
    len: int
    event: int
    cpu: int
    seq: int
    time_ns: int
    _fields_ = [("len", _u32), ("event", _u16), ("cpu", _u16), ("seq", _u64), ("time_ns", _u64)]


# ---------------------------------------------------------------- last words


class WordsSlot(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_words_slot"
    seq: int
    log_len: int
    time_ns: int
    cpu: int
    pid: int
    comm: bytes
    message: bytes
    stack: bytes
    log: bytes
    _fields_ = [
        ("seq", _u32),
        ("log_len", _u32),
        ("time_ns", _u64),
        ("cpu", _u32),
        ("pid", _s32),
        ("comm", _char * COMM_LEN),
        ("message", _char * WORDS_MESSAGE_LEN),
        ("stack", _char * WORDS_STACK_LEN),
        ("log", _char * WORDS_LOG_LEN),
    ]


class Words(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_words"
    magic: int
    version: int
    slot: ctypes.Array[WordsSlot]
    _fields_ = [
        ("magic", _u32),
        ("version", _u32),
        ("reserved", _u32 * 14),
        ("slot", WordsSlot * WORDS_KINDS),
    ]


# ---------------------------------------------------------------- signs of life


class LifeCpu(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_life_cpu"
    state: int
    reserved: int
    irqs: int
    irq_ns: int
    runs: int
    run_ns: int
    _fields_ = [
        ("state", _u32),
        ("reserved", _u32),
        ("irqs", _u64),
        ("irq_ns", _u64),
        ("runs", _u64),
        ("run_ns", _u64),
        ("reserved2", _u64 * 3),
    ]


class Life(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_life"
    magic: int
    version: int
    period_ms: int
    nr_cpus: int
    _fields_ = [
        ("magic", _u32),
        ("version", _u32),
        ("period_ms", _u32),
        ("nr_cpus", _u32),
        ("reserved", _u32 * 12),
    ]


# ---------------------------------------------------------------- probes


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
    sender_comm: bytes
    pid: int
    tgid: int
    parent_pid: int
    uid: int
    comm: bytes
    leader_comm: bytes
    parent_comm: bytes
    _fields_ = [
        ("rec", Record),
        ("sig", _s32),
        ("code", _s32),
        ("flags", _u32),
        ("sender_uid", _u32),
        ("addr", _u64),
        ("sender_pid", _s32),
        ("sender_tid", _s32),
        ("sender_comm", _char * COMM_LEN),
        ("pid", _s32),
        ("tgid", _s32),
        ("parent_pid", _s32),
        ("uid", _u32),
        ("comm", _char * COMM_LEN),
        ("leader_comm", _char * COMM_LEN),
        ("parent_comm", _char * COMM_LEN),
    ]


class OutOfMemory(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_out_of_memory"
    rec: Record
    asker_pid: int
    order: int
    constraint: int
    gfp_mask: int
    asker_comm: bytes
    cgroup_ino: int
    free_kb: int
    total_kb: int
    pid: int
    parent_pid: int
    uid: int
    oom_score_adj: int
    comm: bytes
    parent_comm: bytes
    total_vm_kb: int
    anon_rss_kb: int
    file_rss_kb: int
    shmem_rss_kb: int
    pgtables_kb: int
    _fields_ = [
        ("rec", Record),
        ("asker_pid", _s32),
        ("order", _s32),
        ("constraint", _u32),
        ("gfp_mask", _u32),
        ("asker_comm", _char * COMM_LEN),
        ("cgroup_ino", _u64),
        ("free_kb", _u64),
        ("total_kb", _u64),
        ("pid", _s32),
        ("parent_pid", _s32),
        ("uid", _u32),
        ("oom_score_adj", _s32),
        ("comm", _char * COMM_LEN),
        ("parent_comm", _char * COMM_LEN),
        ("total_vm_kb", _u64),
        ("anon_rss_kb", _u64),
        ("file_rss_kb", _u64),
        ("shmem_rss_kb", _u64),
        ("pgtables_kb", _u64),
    ]


# Of those that follow only vesper_monitor/guest/records.py knows the fields.


class ProcessExit(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_process_exit"
    _fields_ = [
        ("rec", Record),
        ("pid", _s32),
        ("parent_pid", _s32),
        ("uid", _u32),
        ("flags", _u32),
        ("status", _s32),
        ("sig", _s32),
        ("age_ms", _u64),
        ("comm", _char * COMM_LEN),
        ("parent_comm", _char * COMM_LEN),
    ]


class HungTask(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_hung_task"
    _fields_ = [
        ("rec", Record),
        ("pid", _s32),
        ("tgid", _s32),
        ("parent_pid", _s32),
        ("waited_s", _u32),
        ("comm", _char * COMM_LEN),
        ("leader_comm", _char * COMM_LEN),
        ("parent_comm", _char * COMM_LEN),
    ]


class BlockError(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_block_error"
    _fields_ = [
        ("rec", Record),
        ("dev", _u32),
        ("op", _u32),
        ("sector", _u64),
        ("bytes", _u32),
        ("error", _s32),
        ("left_out", _u32),
        ("reserved", _u32),
        ("disk", _char * DISK_LEN),
    ]


class Filesystem(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_filesystem"
    _fields_ = [
        ("rec", Record),
        ("dev", _u32),
        ("error", _s32),
        ("line", _u32),
        ("left_out", _u32),
        ("fstype", _char * FSTYPE_LEN),
        ("disk", _char * DISK_LEN),
        ("where", _char * WHERE_LEN),
    ]


class NetLink(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_net_link"
    _fields_ = [
        ("rec", Record),
        ("ifindex", _u32),
        ("change", _u32),
        ("address", _u8 * 4),
        ("reserved", _u32),
        ("device", _char * IFNAME_LEN),
    ]


class MemoryFailure(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_memory_failure"
    _fields_ = [
        ("rec", Record),
        ("pfn", _u64),
        ("result", _u32),
        ("reserved", _u32),
        ("type", _char * PAGE_TYPE_LEN),
    ]


class Lockup(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_lockup"
    _fields_ = [
        ("rec", Record),
        ("kind", _u32),
        ("cpu", _u32),
        ("pid", _s32),
        ("tgid", _s32),
        ("left_out", _u32),
        ("reserved", _u32),
        ("comm", _char * COMM_LEN),
    ]


class Die(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_die"
    _fields_ = [
        ("rec", Record),
        ("kind", _u32),
        ("trapnr", _s32),
        ("signr", _s32),
        ("pid", _s32),
        ("tgid", _s32),
        ("reserved", _u32),
        ("err", _s64),
        ("ip", _u64),
        ("comm", _char * COMM_LEN),
        ("leader_comm", _char * COMM_LEN),
        ("str", _char * DIE_LEN),
        ("symbol", _char * SYMBOL_LEN),
    ]


class ProbePoint(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_probe_point"
    id: int
    left_out: int
    missed: int
    n_args: int
    unread: int
    pid: int
    tgid: int
    comm: bytes
    value: ctypes.Array[ctypes.c_uint64]
    text: bytes
    _fields_ = [
        ("rec", Record),
        ("id", _u32),
        ("left_out", _u32),
        ("missed", _u32),
        ("n_args", _u32),
        ("unread", _u32),
        ("pid", _s32),
        ("tgid", _s32),
        ("reserved", _u32),
        ("comm", _char * COMM_LEN),
        ("value", _u64 * POINT_ARGS),
        ("text", _char * POINT_TEXT),
    ]


# ---------------------------------------------------------------- Xen


class XenDir(ctypes.LittleEndianStructure):
    c_name: ClassVar[str] = "vsp_xen_dir"
    pages: int
    ref: ctypes.Array[ctypes.c_uint32]
    _fields_ = [("pages", _u32), ("reserved", _u32 * 7), ("ref", _u32 * MAX_REGION_PAGES)]


# ---------------------------------------------------------------- live memory


def load_u64(view: memoryview, offset: int) -> int:
    """One naturally aligned 64-bit load from memory that the guest writes.

    A native-format memoryview reads an item by a fixed-size memcpy, which is
    one load; struct.unpack('<Q') would assemble it byte by byte and could
    return half of an old and half of a new value.

    :param view: of format 'B', its start aligned to 8 bytes (mappings are).
    :param offset: multiple of 8.
    """
    with view[offset : offset + 8].cast("Q") as word:
        return int(word[0])


def load_u32(view: memoryview, offset: int) -> int:
    """One naturally aligned 32-bit load; see :func:`load_u64`."""
    with view[offset : offset + 4].cast("I") as word:
        return int(word[0])


def store_u32(view: memoryview, offset: int, value: int) -> None:
    """One naturally aligned 32-bit store, wrapping as a ``__u32`` does."""
    with view[offset : offset + 4].cast("I") as word:
        word[0] = value & 0xFFFFFFFF


def offset(struct: type[ctypes.Structure], field: str) -> int:
    """Where a field lies in a structure, in bytes."""
    return int(getattr(struct, field).offset)


def pages_for(size: int) -> int:
    """Number of pages that hold ``size`` bytes."""
    return -(-size // PAGE_SIZE)
