# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may open what of VESPER's on a host: root, a group for reading, nobody else.

Tried by processes of those users, on a real vesperd and a real vesper-ivshmem.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.standin.image import RELEASE
from tests.unit.support.apis import list_root_operations
from tests.unit.support.daemons import PROJECT, RESOURCE, DaemonProcess, Monitor, serve
from tests.unit.support.standins import GuestProcess
from tests.unit.transports.support.ivshmem_servers import StandinQemu, holder

NOBODY = 65534
#: A group that each Debian system has, in the place of ``vesper``.
GROUP, GID = "users", 100

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become others")

#: What is imported is so as root: others may not be able to read this tree.
AS_ANOTHER = """\
import errno, json, os, socket, sys
from vesper_monitor.client import Client, DaemonError
wanted = json.loads(sys.argv[1])
os.setgroups(wanted["groups"]); os.setgid(65534); os.setuid(65534)
done = {}
for path, how in wanted["open"]:
    try:
        os.close(os.open(path, getattr(os, how)))
        done[path] = "open"
    except OSError as error:
        done[path] = errno.errorcode[error.errno]
for path in wanted["connect"]:
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
        done[path] = "open"
    except OSError as error:
        done[path] = errno.errorcode[error.errno]
for op, fields in wanted["ask"].items():
    with Client(wanted["vesperd"], timeout=30.0) as client:
        try:
            client.call_vesperd(op, **fields)
            done[op] = "ok"
        except DaemonError as error:
            done[op] = error.code
print(json.dumps(done))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """That others can enter, as /run/vesper and /var/lib/vesper."""
    made = Path(tempfile.mkdtemp(prefix="vesper-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def daemon(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(directory / "domains"))
    made = DaemonProcess(directory, f'group = "{GROUP}"')
    old = os.umask(0)  # nothing must depend on it
    try:
        yield from serve(made)
    finally:
        os.umask(old)


def another(
    *groups: int,
    opens: dict[Path, str] | None = None,
    connect: tuple[str, ...] = (),
    ask: dict[str, dict[str, Any]] | None = None,
    vesperd: Path | None = None,
) -> dict[str, str]:
    """What a user that is nobody, in those groups, gets."""
    wanted = {
        "groups": groups,
        "open": [(str(path), how) for path, how in (opens or {}).items()],
        "connect": connect,
        "ask": ask or {},
        "vesperd": str(vesperd),
    }
    result = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER, json.dumps(wanted)],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True, timeout=60, check=True,
    )  # fmt: skip
    done: dict[str, str] = json.loads(result.stdout)
    return done


def test_vesperds_socket_is_for_root_and_the_group(daemon: DaemonProcess) -> None:
    path = str(daemon.socket)
    assert another(connect=(path,)) == {path: "EACCES"}
    assert another(GID, connect=(path,)) == {path: "open"}
    status = daemon.socket.stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o660, 0, GID)


def test_a_member_of_the_group_may_read_and_do_nothing(daemon: DaemonProcess) -> None:
    guest = GuestProcess("vm1", "")
    try:
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        root_only = list_root_operations()
        fields: dict[str, dict[str, Any]] = dict.fromkeys(root_only, RESOURCE)
        reading = {"hello": {}, "status": {}, "faults": {}, "state": RESOURCE, "alive": RESOURCE}
        got = another(GID, ask={**fields, **reading}, vesperd=daemon.socket)
        assert got == dict.fromkeys(root_only, "denied") | dict.fromkeys(reading, "ok")
        events = {"events": {"limit": 1}}
        assert another(GID, ask=events, vesperd=daemon.socket)["events"] == "ok"
    finally:
        guest.kill()


def test_vesperds_files_are_roots_alone(daemon: DaemonProcess) -> None:
    """The group reads by the socket alone, which bounds what that costs."""
    guest = GuestProcess("vm1", "")
    try:
        daemon.call("start", **RESOURCE)
        daemon.call("pause", vm="vm1", **{"for": 60})
        assert Monitor(daemon).result() == "fine"
        kept = ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "pauses.json"]
        private = {daemon.directory / name: "O_RDONLY" for name in kept}
        assert all(path.exists() for path in private)
        assert set(another(GID, opens=private).values()) == {"EACCES"}
    finally:
        guest.kill()
    release = daemon.images / RELEASE
    image = release / "send_signal.ko"
    changes = {daemon.images / "x": "O_CREAT", release / "x": "O_CREAT", image: "O_WRONLY"}
    assert set(another(GID, opens=changes).values()) == {"EACCES"}
    assert another(opens={image: "O_RDONLY"}) == {str(image): "open"}  # vesper probe list


def test_shared_memory_of_guests_is_private(directory: Path) -> None:
    """It has no name; who holds it is root's process; its sockets are not for all."""
    with holder(directory, "--size", "1", "--group", GROUP) as process:
        qemu = StandinQemu(process.qemu)
        try:
            memory = Path(f"/proc/{process.process.pid}/fd")
            opened = {path: os.readlink(path) for path in memory.iterdir()}
            shared = [path for path, name in opened.items() if "memfd:vesper" in name]
            assert shared
            for path in shared:
                os.close(os.open(path, os.O_RDWR))  # root may
            assert set(another(GID, opens=dict.fromkeys(shared, "O_RDWR")).values()) == {"EACCES"}
            sockets = (process.control, process.qemu)
            assert set(another(connect=sockets).values()) == {"EACCES"}
            # QEMU's group gets memory of its own, and nobody else's.
            assert another(GID, connect=sockets) == {
                process.control: "EACCES",
                process.qemu: "open",
            }
        finally:
            qemu.close()
