# SPDX-License-Identifier: GPL-2.0-or-later
"""Our reader of xl.cfg understands what Xen's own does, and as it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.images.libvirt_source import libvirt_source
from tests.unit.ocf.support.libxlutil import Verdict, read_configs
from vesper_monitor.ocf.xen.xl_config import read_name, read_number, read_values

NAMES = {
    b'name = "vm1"': "vm1",
    b"name='vm1'\n": "vm1",
    b'memory = 512; name = "x" ; vcpus=2\n': "x",
    b'name = "my vm"\n': "my vm",
    b'name = "load50%"\n': "load50%",
    b'name = "a\\"b"\n': 'a"b',
    b"name = 'a\"b\\'c\\\\d'\n": "a\"b'c\\d",
    b'name = "a#b;c"\n': "a#b;c",
    b'name = "vm1" # the first': "vm1",
    b"name = 0x17\n": "0x17",
    b'name = "vm"\nname += "1"\n': "vm1",
    b'name = "old"\nname = "new"\n': "new",
    "name = 'größe'\n".encode(): "größe",
    b'disk = [\n  "a, name=b", # c\n  [1, 2,],\n]\nname = "vm1"\n': "vm1",
    b'name = " vm1 "\n': "vm1",
}

REFUSED = (
    b"",
    b"\n\n",
    b"# nothing\n",
    b"memory = 512\n",
    b'name = ""\n',
    b'name = "  "\n',
    b'name = "a\\nb"\n',
    b'name = "\xff"\n',
    b'name = ["vm1"]\n',
    b'name.x = "vm1"\n',
    b'Name = "vm1"\n',
    b'name = "vm1\n',  # cut off
    b'name = "vm1"\ndisk = [ "a",',
    b'name = "vm1"\ndisk =',
    b'name = "vm1"\ndi',
    b'name = "vm1"\nname = "',
    b'name = "vm1"\r\n',
    b'name = "vm1" memory = 512\n',
    b'name = "vm1" % 7\n',
    b"name = vm1\n",
    b'name =\n"vm1"\n',
    b'name = "\\x41"\n',
    b'name = "a\0b"\n',
    b'name = "a"; name += ["b"]\n',
    b'name = "vm1"; disk = [,]\n',
    b'name = "vm1"; disk = ["a" "b"]\n',
    b'name = "vm1"; disk = ["a"; "b"]\n',
    b"PK\3\4 this is no text at all",
)

NUMBERS = {
    b"maxmem = 512\n": 512,
    b'maxmem = "512"\n': 512,
    b"maxmem = 0x400\n": 1024,
    b"maxmem = 010\n": 8,
    b"memory = 5; maxmem = 512 # MiB": 512,
    b'maxmem = " -1"\n': -1,
    b"maxmem = 08\n": None,
    b"maxmem = 0x\n": None,
    b"maxmem = 99999999999999999999\n": None,
    b"maxmem = 1\nmaxmem += 2\n": None,
    b"maxmem = [512]\n": None,
    b'maxmem = "512 MiB"\n': None,
    b"memory = 512\n": None,
}


@pytest.mark.parametrize("text", NAMES)
def test_a_name_is_read(text: bytes) -> None:
    assert read_name(text) == NAMES[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_configuration_without_name_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        read_name(text)


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_read(text: bytes) -> None:
    assert read_number(text, "maxmem") == NUMBERS[text]


def test_values_are_read() -> None:
    text = b"a = [1, 'b', [ 0x2 ], ]; a += [3]\n"
    assert read_values(text) == {"a": [b"1", b"b", [b"0x2"], b"3"]}


def test_endless_lists_in_lists_are_refused() -> None:
    with pytest.raises(ValueError):
        read_values(b"a = " + b"[" * 100_000)


def test_an_error_names_its_line() -> None:
    with pytest.raises(ValueError, match=r"^line 2: not understood, near 'Python'$"):
        read_name(b'name = "vm1"\nPython\n')


def _compare(*texts: bytes) -> None:
    """Ours and Xen's agree on files as they are, and as xl puts its command line behind them."""
    verdicts = iter(read_configs(*(text + end for text in texts for end in (b"", b"\n"))))
    for text in texts:
        _agree(text, next(verdicts), next(verdicts))


def _agree(text: bytes, bare: Verdict, xen: Verdict) -> None:
    try:
        read_values(text)
        accepted = True
    except ValueError:
        accepted = False
    assert bare.accepted == accepted
    maxmem = None
    try:
        maxmem = read_number(text, "maxmem")
    except ValueError:
        assert not xen.accepted
    else:
        assert xen.accepted
    assert maxmem == xen.maxmem

    # Less than libxlutil's: what `xl list` could not show.
    wanted = (xen.name or b"").decode(errors="replace").strip()
    if "�" in wanted or wanted.splitlines() != [wanted]:
        wanted = ""
    try:
        name = read_name(text)
    except ValueError:
        name = ""
    assert name == wanted


@pytest.mark.parametrize("text", [*NAMES, *REFUSED, *NUMBERS])
def test_texts_are_read_as_by_libxlutil(text: bytes) -> None:
    _compare(text)


PARTS = (
    b'name="v"\n', b"maxmem=12\n", b"name", b"maxmem", b"a", b"=", b"+=", b" ", b"\t", b"\n",
    b";", b"#", b"#c\n", b'"x"', b"'y z'", b'"', b"'", b"\\", b"\\n", b"\\x41", b"\\012",
    b'"\\"q"', b"[", b"]", b",", b"1", b"0x4", b"010", b'"0x1f"', b"!", b"\r", b"\0", b"\xff",
    b"+", b".", b"(", b"N", b"%",
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join))
@example(b'name="\\0\x0b12"')
@example(b'name="v"\n!')
def test_made_files_are_read_as_by_libxlutil(text: bytes) -> None:
    _compare(text)


def _real_files() -> list[Path]:
    tests = libvirt_source() / "tests"
    return sorted(p for kind in ("xl", "xm") for p in tests.glob(f"{kind}configdata/*.cfg"))


def test_libvirts_files_are_read_as_by_libxlutil() -> None:
    files = _real_files()
    assert len(files) > 80
    names = []
    for path in files:
        text = path.read_bytes()
        cuts = (len(text) // 3, len(text) * 2 // 3, len(text) - 2)
        _compare(text, *(text[:end] for end in cuts))
        try:
            names.append(read_name(text))
        except ValueError:
            pass
    assert len(names) > 70
