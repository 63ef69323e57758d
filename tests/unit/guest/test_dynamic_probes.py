# SPDX-License-Identifier: GPL-2.0-or-later
"""Definitions of dynamic probes: what is read, what is refused and where, what is made of it."""

from __future__ import annotations

import asyncio
import ctypes
import json
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lab.standin.image import make_image
from vesper_monitor.guest import abi
from vesper_monitor.guest.control.modinfo import ModinfoError, read_modinfo, rename_module
from vesper_monitor.guest.dynamic_probes import fetch
from vesper_monitor.guest.dynamic_probes import syntax as syntax_module
from vesper_monitor.guest.dynamic_probes.point import (
    DynamicProbe,
    DynamicProbeError,
    Kind,
    ValueKind,
)
from vesper_monitor.guest.dynamic_probes.program import module_parameters
from vesper_monitor.guest.dynamic_probes.store import DynamicProbeStore
from vesper_monitor.guest.dynamic_probes.syntax import parse_definition
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.relay import decode
from vesper_monitor.guest.relay.relay import RawRecord

PROJECT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("do_exit", "at=p:do_exit"),
        ("p do_exit+0x10 %ax", "at=p:do_exit+16 args=r80"),
        ("ext4:ext4_error $arg2:u8", "at=p:ext4:ext4_error args=r104<56>56"),
        ("g $arg1:s32 $arg6:s64", "at=p:g args=r112<32/32,r64<0/0"),
        ("g +8(%si):u32 -8(+0x10(%di)):s16", "at=p:g args=r104w8,r112q16h-8<48/48"),
        ("g $stack $stack3:x8", "at=p:g args=r152,r152b24"),
        ("g %cx:b3@5/16 +2(%cx):b64@0/64", "at=p:g args=r88<56>61,r88q2<0>0"),
        ("g +0(%si):string +u4(%si):string +0(%si):ustring", "at=p:g args=r104z0,r104u4,r104u0"),
        ("g +0(+8(%si)):string %ip:symbol +8(%si):symstr", "at=p:g args=r104q8z0,r128y0,r104q8y0"),
        ("g $comm +1(%si):char", "at=p:g args=c0,r104b1"),
        ("r g $retval:s64 if arg1 < 0", "at=r:g args=r80<0/0 only=0<0"),
        ("g%return $retval", "at=r:g args=r80"),
        ("t sched_switch $arg5 +4($arg2)", "at=t:sched_switch args=a4,a1q4"),
        (
            'g a=%ax b=$comm if a >= 0x10 && b != "x y" && a & 3 && a<=5 max 7/s',
            "at=p:g args=r80,c0 only=0}16,1!782079,0&3,0{5",
        ),
    ],
)  # fmt: skip
def test_a_definition_becomes_module_parameters(text: str, program: str) -> None:
    defined = parse_definition(text)
    assert module_parameters(defined).split(" id=")[0] == program
    assert f" id={defined.id} " in module_parameters(defined)


def test_name_and_number_follow_the_definition() -> None:
    assert parse_definition("do_exit").name == "p_do_exit"
    assert parse_definition("ext4:ext4_error.part.0+4").name == "p_ext4_ext4_error_part_0_4"
    assert parse_definition("r g").name == "r_g"
    defined = parse_definition(" r12:mine  g  a=$retval  %ax max 3/s ")
    assert (defined.name, defined.kind, defined.max_active) == ("mine", Kind.RETURN, 12)
    assert [value.name for value in defined.values] == ["a", "arg2"]
    assert defined.max_per_s == 3
    assert "max_per_s=3 max_active=12" in module_parameters(defined)
    assert parse_definition(defined.text) == defined
    # Whatever changes the meaning of a record changes the number in it.
    assert (
        len({parse_definition(f"p:mine g {value}").id for value in ("%ax", "%bx", "%ax:u8", "")})
        == 4
    )


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "missing"),
        ("p:x ", 5, "missing"),
        ("-:x", 1, "vesper probe unload"),
        ("p:g/x g", 3, "groups"),
        ("p:1x g", 3, "not a name"),
        ("p5 g", 2, "only a return probe"),
        ("r5000 g", 2, "between 1 and 4096"),
        ("f:x vfs_read", 1, "kind 'f'"),
        ("e:x a.b", 1, "kind 'e'"),
        ("0xffffffff81000000", 1, "addresses differ"),
        ("p g-3", 3, "not the name of a function"),
        ("p g+x", 5, "not an offset"),
        ("r g+4", 5, "no offset"),
        ("t sched:sched_switch", 3, "without its group"),
        ("g %dj", 3, "no register %dj"),
        ("g name=%dj", 8, "no register %dj"),
        ("g $arg7", 3, "$arg1 to $arg6"),
        ("g+1 $arg1", 5, "only at the beginning"),
        ("r g $arg1", 5, "arguments are lost"),
        ("t g $arg6", 5, "$arg1 to $arg5"),
        ("t g %ax", 5, "no registers"),
        ("t g $stack0", 5, "no stack"),
        ("g $retval", 3, "only a return probe"),
        ("g $nothing", 3, "no variable"),
        ("g @jiffies", 3, "no addresses"),
        ("g \\1", 3, "constants"),
        ("g file->f_mode", 3, "C variables"),
        ("g 12", 3, "is not a value"),
        ("g +8(%si", 9, "')' is missing"),
        ("g +8%si", 3, "a dereference is"),
        ("g +99999999999(%si)", 3, "too large"),
        ("g +0(+u8(%si)):string", 6, "not followed"),
        ("g +u0(%si):u8", 12, "only texts"),
        ("g +0($comm)", 6, "no address"),
        ("g $comm:u8", 9, "is a string"),
        ("g %si:string", 7, "lies in memory"),
        ("g %si:u9", 7, "no type u9"),
        ("g %si:u8[4]", 7, "arrays"),
        ("g %si:b9@0/8", 7, "do not lie"),
        ("g %si:", 7, "type is missing"),
        ("g %si)", 6, "not expected"),
        ("g a=%si a=%di", 9, "second value"),
        ("g common_pid=%si", 3, "already"),
        ("g " + "%ax " * 9, 35, "more than 8 values"),
        ("g a=" + "+0(" * 12 + "%si" + ")" * 12, 5, "too many dereferences"),
        ("g %si if", 9, "name of a value"),
        ("g %si if b == 1", 10, "name of a value is wanted here (arg1)"),
        ("g %si if arg1 = 1", 15, "one of"),
        ("g %si if arg1 == x", 18, "a number"),
        ("g %si if arg1 == -1", 18, "lies in 0"),
        ("g %si if arg1 == 1 || arg1 == 2", 20, "only &&"),
        ('g $comm if arg1 < "a"', 17, "== and !="),
        ("g $comm if arg1 == 5", 20, '"text" is wanted'),
        ("g %si if arg1 == 1 x", 20, "not expected"),
        ("g max 5", 8, "10/s"),
        ("g max 0/s", 7, "10/s"),
        ("g \x1b[2J", 3, "printable ASCII"),
        ("g" * 60, 1, "more than 55 characters"),
        ("g" * 1001, 1001, "more than 1000"),
    ],
)
def test_a_wrong_definition_is_refused_with_its_place(text: str, column: int, said: str) -> None:
    with pytest.raises(DynamicProbeError, match=re.escape(said)) as error:
        parse_definition(text)
    assert str(error.value).startswith(f"column {column}: "), error.value
    assert error.value.position == column - 1


PIECES = st.sampled_from(
    ["p", "r", "t", "p:x", "r3:y", "t:z", "g", "vfs_read", "+8(", "-0x10(", "+u0(", "%si", "%ax",
     ")", "$arg1", "$retval", "$comm", "$stack2", ":u32", ":s8", ":string", ":symbol", ":b3@1/8",
     "a=", "b=", "if", "max", "&&", "||", "==", "!=", "<", "&", "5", "-1", "0x10", '"x"', "10/s",
     "@x", "\\", "/", ",", "=", ""]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(PIECES).map("".join), st.lists(PIECES).map(" ".join)))
@example("g max 99999999999999999999999/s")
@example("g %ax if arg1 == 99999999999999999999999")
@example("p g+99999999999999999999999")
@example("r99999999999999999999999 g")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        defined = parse_definition(text)
    except DynamicProbeError as error:
        assert 0 <= error.position <= len(text)
        return
    made = module_parameters(defined)
    assert len(made) <= 4096
    # The kernel splits parameters at spaces and takes quotes away.
    assert not set(made) & set("\"'\n\t")
    assert parse_definition(defined.text) == defined


def test_limits_are_the_modules() -> None:
    header = (PROJECT / "probe_modules/probe_point/probe_point.h").read_text()
    limits = dict(re.findall(r"^#define (POINT_\w+)\s+(\d+)", header, re.M))
    assert int(limits["POINT_MAX_OPS"]) == fetch._MAX_OPS
    assert int(limits["POINT_MAX_TESTS"]) == syntax_module.MAX_TESTS
    assert int(limits["POINT_TRACEPOINT_ARGS"]) == fetch._TRACEPOINT_ARGUMENTS
    assert int(limits["POINT_MAX_ACTIVE"]) == syntax_module.MAX_ACTIVE


def test_registers_are_the_compilers(tmp_path: Path) -> None:
    """struct pt_regs of the kernel's own user interface (asm/ptrace.h)."""
    words = {"cs": "cs", "ss": "ss"}
    lines = []
    for name in fetch._REGISTERS:
        # There the old names of the registers are used.
        field = name if name[0] == "r" else words.get(name, f"r{name}")
        field = {"rflags": "eflags", "flags": "eflags", "rorig_ax": "orig_rax"}.get(field, field)
        lines.append(f'printf("%zu\\n", offsetof(struct pt_regs, {field}));')
    source = tmp_path / "regs.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <asm/ptrace.h>\n"
        "int main(void) {" + "\n".join(lines) + " return 0; }\n"
    )
    program = tmp_path / "regs"
    subprocess.run(["gcc", "-o", program, source], check=True, timeout=60)
    output = subprocess.run([program], check=True, capture_output=True, timeout=10).stdout
    assert [int(line) for line in output.split()] == list(fetch._REGISTERS.values())


def record(defined: DynamicProbe, values: list[int], texts: bytes = b"", **fields: int) -> bytes:
    made = abi.ProbePoint(id=defined.id, n_args=len(values), pid=7, tgid=6, comm=b"cat", **fields)
    made.rec.event = abi.EventType.PROBE_POINT
    for i, value in enumerate(values):
        made.value[i] = value
    data = bytearray(bytes(made))
    place = abi.field_offset(abi.ProbePoint, "text")
    data[place : place + len(texts)] = texts
    return bytes(data)


def decoded(defined: DynamicProbe, data: bytes, probe: str | None = None) -> Event:
    head = abi.Record.from_buffer_copy(data)
    (event,) = decode.decode_records(
        [RawRecord(head.seq, head.time_ns, head.event, 0, data)],
        vm="vm1", domid=1, probe=probe or defined.name, cpu=0, received=0.0,
        defined={defined.name: defined},
    )  # fmt: skip
    return event


def test_records_are_decoded_by_the_definition() -> None:
    defined = parse_definition(
        "p:mine g n=%ax:s32 a=%bx:u64 x=%cx c=%dx:char s=+0(%si):string t=$comm"
    )
    high = (1 << 64) - 2
    texts = b"one".ljust(128, b"\0") + b"two\x1b\xff" + bytes(123)
    event = decoded(
        defined, record(defined, [high, high, 255, 65, 0, 0], texts, unread=2, left_out=3)
    )
    assert (event.event, event.probe) == ("mine", "mine")
    assert event.fields == {
        "n": -2, "a": None, "x": 255, "c": "A", "s": "one", "t": "two\\x1b\\xff",
        "common_pid": 7, "common_tgid": 6, "common_comm": "cat", "left_out": 3, "missed": 0,
    }  # fmt: skip
    assert event.text == (
        'mine: cat[7] at g: n=-2 a=(fault) x=0xff c="A" s="one" t="two\\x1b\\xff" '
        "(3 more before it)"
    )
    json.dumps(event.to_json())


def test_records_of_another_definition_are_shown_as_they_are() -> None:
    """A lost file, a guest that lies: the values are shown as they are."""
    defined, other = parse_definition("p:mine g %ax"), parse_definition("p:mine g %bx:s8")
    event = decoded(other, record(defined, [5]))
    assert (event.event, event.fields["value"]) == ("probe_point", [5])
    assert "not defined here" in event.text
    # Nor does a guest make events of one name in the channel of another.
    assert decoded(defined, record(defined, [5]), probe="send_signal").event == "probe_point"
    assert decoded(defined, record(defined, [5, 6])).event == "probe_point"


@given(st.binary(min_size=ctypes.sizeof(abi.Record), max_size=600), st.booleans())
def test_any_bytes_become_an_event(data: bytes, ours: bool) -> None:
    defined = parse_definition("p:mine g n=%ax:s32 s=+0(%si):string $comm")
    if ours:
        start = bytearray(record(defined, [1, 0, 0]))
        data = bytes(start[: len(data) // 2]) + data[len(data) // 2 :]
    event = decoded(defined, data)
    assert event.event in ("mine", "probe_point") or not ours
    json.dumps(event.to_json())
    assert event.text.isprintable()


def test_definitions_are_kept_for_the_next_daemon(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    store = DynamicProbeStore(path)
    asyncio.run(store.restore_probes())
    live = store.probes_of_vm("vm1")
    store.add_probe("vm1", parse_definition("p:mine g %ax"))
    store.add_probe("vm1", parse_definition("r g"))
    store.add_probe("vm2", parse_definition("g"))
    store.remove_probe("vm2", "p_g")
    store.remove_probe("vm2", "p_g")
    asyncio.run(store.save_probes())
    assert sorted(live) == ["mine", "r_g"]

    again = DynamicProbeStore(path)
    asyncio.run(again.restore_probes())
    assert again.probes_of_vm("vm1") == store.probes_of_vm("vm1")
    assert again.probes_of_vm("vm2") == {}

    for wrong in ("", "[" * 100_000, "[]", "[1]", '{"vm1": 5}', "5"):
        path.write_text(wrong)
        third = DynamicProbeStore(path)
        asyncio.run(third.restore_probes())  # and says so
        assert third.probes_of_vm("vm1") == {}
    path.write_text(json.dumps({"vm1": ["p:good g", "p:bad g %dj"]}))
    third = DynamicProbeStore(path)
    asyncio.run(third.restore_probes())
    assert list(third.probes_of_vm("vm1")) == ["good"]


def test_a_module_image_can_be_renamed() -> None:
    """What a kernel says to it: tests/kernel/test_dynamic_probes.py."""
    with pytest.raises(ModinfoError, match="not a 64-bit"):
        rename_module(b"nothing", "x")
    built = make_image("probe_point")
    changed = rename_module(built, "mine")
    assert len(changed) == len(built)
    assert "name" not in read_modinfo(changed)
    assert read_modinfo(changed)["base"] == "probe_point"
    differ = [i for i, (a, b) in enumerate(zip(built, changed, strict=True)) if a != b]
    assert len(differ) <= 4 + len("probe_point")
    for name in ("", "x" * 56):
        with pytest.raises(ModinfoError, match="not the name"):
            rename_module(built, name)
    with pytest.raises(ModinfoError):
        rename_module(changed, "again")


def test_each_type_has_its_kind_of_value() -> None:
    defined = parse_definition("g %ax:u8 %ax:s8 %ax:x8 %ax:char $comm")
    assert [value.kind for value in defined.values] == list(ValueKind)
