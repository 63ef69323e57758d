# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of VMs, and files whose names are made of them: nobody chooses what is read."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_transport.status_files import StatusFiles
from tests.unit.support.apis import make_api_of_nobody
from vesper_monitor.daemon.request import vm_name
from vesper_monitor.daemon.server import Connection, RequestError
from vesper_monitor.hypervisor import qemu_process
from vesper_monitor.hypervisor.transport import TransportError
from vesper_monitor.util.regular_file import open_regular, read_regular
from vesper_monitor.util.vm_name import explain_bad_name
from xen_transport import xl_log

NOBODY = 65534
STATUS = (
    "<domstatus state='running' reason='booted' pid='{pid}'><domain type='kvm'>"
    "<name>{name}</name><uuid>11111111-2222-3333-4444-555555555555</uuid></domain></domstatus>"
)
#: Legal with xl and libvirt, however odd.
LEGAL = ["vm1", "a b", " vm ", "'", '"x"', "日本→", "-x", "a.b", "...", "\u2028", "é" * 127, "*"]
BAD = [
    "", "/", "/dev/shm/x", "a/b", "../vm1", ".", "..", "a\nb", "a\0b", "\x7f", "\x85", "\x1b[2J",
    "\udcfc", "é" * 128,
]  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_what_the_toolstacks_take_is_a_name(name: str) -> None:
    assert explain_bad_name(name) is None
    assert vm_name({"vm": name}) == name


@pytest.mark.parametrize("name", BAD)
def test_what_would_be_something_else_is_none(name: str) -> None:
    assert explain_bad_name(name)
    with pytest.raises(RequestError):
        vm_name({"vm": name})


@given(st.text(st.characters(), max_size=300))
def test_a_name_makes_one_file_in_its_directory(name: str) -> None:
    if explain_bad_name(name) is None:
        assert os.path.basename(f"/d/{name}") == name
        assert os.path.normpath(f"/d/{name}") == f"/d/{name}"
        assert len(name.splitlines()) <= 1 or set(name) & set("\u2028\u2029")
        assert len(os.fsencode(name)) <= 255


def test_each_request_checks_the_name_before_anything_else() -> None:
    api = make_api_of_nobody()
    client = cast(Connection, type("Root", (), {"privileged": True, "until_closed": False})())
    for op in api.operations:
        for name in ("/dev/shm/x", "..", "a\nb", "\udcfc", 7):
            request = {"op": op, "vm": name, "resource": "r1", "id": 1}
            with pytest.raises(RequestError) as refused:
                asyncio.run(api.handle_request(client, request))
            assert refused.value.code == "bad-request", op


# ------------------------------------------------------------ files


def bad_files(directory: Path) -> dict[str, str]:
    """Names of files that are none of libvirt's, and what they are."""
    (directory / "other.xml").write_text(STATUS.format(pid=1, name="other"))
    os.mkfifo(directory / "fifo.xml")
    (directory / "link.xml").symlink_to(directory / "other.xml")
    (directory / "folder.xml").mkdir()
    (directory / "device.xml").symlink_to("/dev/zero")
    made = {"fifo": "pipe", "link": "link", "folder": "directory", "device": "link"}
    if os.geteuid() == 0:
        (directory / "forged.xml").write_text(STATUS.format(pid=1, name="forged"))
        os.chown(directory / "forged.xml", NOBODY, NOBODY)
        made["forged"] = "another user's"
    return made


def test_only_regular_files_of_the_right_owner_are_opened(tmp_path: Path) -> None:
    for name in bad_files(tmp_path):
        with pytest.raises(OSError):
            open_regular(str(tmp_path), f"{name}.xml")
    for name in ("../x", "/etc/passwd", "", ".", "..", "a\0b"):
        with pytest.raises(OSError, match="not the name"):
            open_regular(str(tmp_path), name)
    assert read_regular(str(tmp_path), "other.xml", 1000).startswith(b"<domstatus")
    with pytest.raises(OSError, match="longer than"):
        read_regular(str(tmp_path), "other.xml", 10)
    with pytest.raises(FileNotFoundError):
        open_regular(str(tmp_path), "none.xml")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_the_directorys_owner_is_believed(tmp_path: Path) -> None:
    """libvirt of a user's own, if vesperd is told so."""
    (tmp_path / "vm1.xml").write_text("x")
    os.chown(tmp_path / "vm1.xml", NOBODY, NOBODY)
    os.chown(tmp_path, NOBODY, NOBODY)
    assert read_regular(str(tmp_path), "vm1.xml", 10) == b"x"


def test_status_files_of_others_hold_nothing_up(tmp_path: Path) -> None:
    """A pipe would wait for its writer, in vesperd's only loop."""
    made = bad_files(tmp_path)
    files = StatusFiles(tmp_path)
    for name in made:
        with pytest.raises(TransportError, match="not a status file of libvirt's"):
            files.read_status_of(name)
    for name in ("/dev/shm/x", "../vm1", "..", "a\nb"):
        with pytest.raises(TransportError, match="not the name of a domain"):
            files.read_status_of(name)
    # The others are read all the same.
    assert [status.name for status in files.read_all_statuses()] == ["other"]


def test_a_status_file_speaks_of_its_own_domain_alone(tmp_path: Path) -> None:
    (tmp_path / "vm2.xml").write_text(STATUS.format(pid=1, name="vm1"))
    with pytest.raises(TransportError, match="another domain"):
        StatusFiles(tmp_path).read_status_of("vm2")
    assert StatusFiles(tmp_path).read_all_statuses() == []


LOCK = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=1); sys.stdin.read()"  # noqa: E501


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another")
def test_a_lock_on_a_file_of_ones_own_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESPER_QEMU_RUN", str(tmp_path))
    (tmp_path / "vm1.pid").write_text("")
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(tmp_path / "vm1.pid")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert qemu_process.lock_holder(str(tmp_path), "vm1.pid") == process.pid
        os.chown(tmp_path / "vm1.pid", NOBODY, NOBODY)
        with pytest.raises(OSError, match="belongs to user"):
            qemu_process.lock_holder(str(tmp_path), "vm1.pid")
    finally:
        process.communicate(timeout=10)


def test_xls_log_is_read_only_if_it_is_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "xl-vm1.log")
    assert xl_log.read_log_tail("vm1", tmp_path) == ""
    (tmp_path / "xl-vm2.log").symlink_to("/etc/passwd")
    assert xl_log.read_log_tail("vm2", tmp_path) == ""
