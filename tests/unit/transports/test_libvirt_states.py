# SPDX-License-Identifier: GPL-2.0-or-later
"""What libvirt says, understood; and libvirt's files and QEMU's threads, read."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_transport import libvirt_states, status_files
from kvm_transport.doorbells import Doorbells
from kvm_transport.link import KvmLink
from kvm_transport.qemu_process_watch import QemuProcessWatch
from kvm_transport.status_files import StatusFile, StatusFiles
from kvm_transport.transport import KvmTransport
from tests.unit.support.daemons import PROJECT
from vesper_monitor.faults import domain_events as domains
from vesper_monitor.hypervisor.transport import (
    ENDED,
    Cause,
    Domain,
    DomainReport,
    DomainState,
    TransportError,
)
from vesper_monitor.rules import rule_set

libvirt = pytest.importorskip("libvirt")

VM1 = Domain("vm1", 4711, "00000000-0000-0000-0000-000000000001")
NUMBERS = st.integers(-2, 20)

#: state, reason: is it a failure at once (True), none (False), or one that lasts (None)?
PAUSES = {
    "USER": False, "MIGRATION": False, "SAVE": False, "DUMP": False, "SNAPSHOT": False,
    "FROM_SNAPSHOT": False, "STARTING_UP": False, "POSTCOPY": False,
    "IOERROR": True, "WATCHDOG": True, "POSTCOPY_FAILED": True,
    "UNKNOWN": None, "SHUTTING_DOWN": None,
}  # fmt: skip
MEANT = {True: Cause.FAILURE, False: Cause.ASKED, None: Cause.UNKNOWN}


def test_the_numbers_are_libvirts() -> None:
    """Each pause that this libvirt knows is judged on purpose."""
    known = {
        name.removeprefix("VIR_DOMAIN_PAUSED_"): number
        for name, number in vars(libvirt).items()
        if name.startswith("VIR_DOMAIN_PAUSED_") and not name.endswith("_LAST")
    }
    assert PAUSES.keys() | {"CRASHED"} >= known.keys() - {"API_ERROR"}
    for name, failure in PAUSES.items():
        report = libvirt_states.make_report(
            *libvirt_states.decode_state(libvirt.VIR_DOMAIN_PAUSED, known[name])
        )
        assert report.state is DomainState.PAUSED
        assert report.cause is MEANT[failure], name
        assert report.why
    crashed = libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED
    for numbers in (crashed, (libvirt.VIR_DOMAIN_PAUSED, known["CRASHED"])):
        assert (
            libvirt_states.make_report(*libvirt_states.decode_state(*numbers)).state
            is DomainState.CRASHED
        )
    for number in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
        assert (
            libvirt_states.make_report(*libvirt_states.decode_state(number, 1)).state
            is DomainState.RUNNING
        )
    # It is about to end, or to be reset by libvirt: nothing to be sure of.
    for number in (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_PMSUSPENDED):
        report = libvirt_states.make_report(*libvirt_states.decode_state(number, 0))
        assert (report.state, report.cause) == (DomainState.PAUSED, Cause.UNKNOWN)


@pytest.mark.parametrize(
    ("detail", "before", "cause", "why"),
    [
        ("SHUTDOWN", "", Cause.ASKED, "shut down from inside"),
        ("SHUTDOWN", "watchdog", Cause.FAILURE, "switched off by its watchdog"),
        ("FAILED", "watchdog", Cause.FAILURE, "switched off by its watchdog"),
        ("SHUTDOWN", "signal", Cause.FAILURE, "ended by a signal"),
        ("DESTROYED", "signal", Cause.ASKED, "virsh destroy"),
        ("CRASHED", "", Cause.FAILURE, "crashed"),
        ("CRASHED", "panic", Cause.FAILURE, "panicked"),
        ("DESTROYED", "panic", Cause.FAILURE, "panicked"),
        ("MIGRATED", "", Cause.ASKED, "migrated to another host"),
        ("SAVED", "", Cause.ASKED, "saved to a file"),
        ("FAILED", "", Cause.FAILURE, "killed or has failed"),
        ("FROM_SNAPSHOT", "", Cause.ASKED, "snapshot"),
    ],
)
def test_each_end_has_its_cause(detail: str, before: str, cause: Cause, why: str) -> None:
    report = libvirt_states.make_end_report(
        getattr(libvirt, f"VIR_DOMAIN_EVENT_STOPPED_{detail}"), before
    )
    assert (report.state, report.cause) == (DomainState.GONE, cause)
    assert why in report.why
    assert why in domains.describe_ending(VM1, report)


@given(NUMBERS, NUMBERS, st.sampled_from(["", "panic", "watchdog", "signal", "x"]))
def test_any_numbers_are_a_state_or_unknown(state: int, reason: int, before: str) -> None:
    """What a later libvirt may say is understood as far as it goes; nobody dies of it."""
    report = libvirt_states.make_report(*libvirt_states.decode_state(state, reason))
    assert report.state not in ENDED or report.state is DomainState.CRASHED
    assert libvirt_states.make_end_report(state, before).state is DomainState.GONE
    assert (
        libvirt_states.make_watchdog_notice(state).text
        and not libvirt_states.make_watchdog_notice(state).failure
    )
    failure = reason == libvirt.VIR_DOMAIN_EVENT_MEMORY_FAILURE_ACTION_FATAL
    assert libvirt_states.make_memory_notice(state, reason).failure is failure
    assert not libvirt_states.make_io_error_notice("sda", state).failure


@given(st.text(), st.text())
def test_any_words_are_a_state_or_unknown(state: str, reason: str) -> None:
    libvirt_states.make_report(state, reason)


@given(st.sampled_from(DomainState), st.sampled_from(Cause), st.text(), st.none() | st.just(7.0))
def test_only_a_failed_or_a_long_pause_is_a_fault(
    state: DomainState, cause: Cause, why: str, paused: float | None
) -> None:
    if paused is not None:
        state = DomainState.PAUSED
    event = domains.make_report_event(VM1, DomainReport(state, cause, why), paused)
    verdict = rule_set.judge_by_defaults(event, ())
    failed = cause is Cause.FAILURE or paused is not None
    assert (verdict is not None) == (state is DomainState.PAUSED and failed)
    assert event.text.isprintable()
    if verdict is not None:
        assert verdict.rule == "paused" and "(system)" in verdict.reason


def test_memory_failure_is_a_fault_where_it_is_fatal() -> None:
    for action, fatal in ((0, False), (1, False), (2, True), (3, False)):
        event = domains.make_notice_event(VM1, libvirt_states.make_memory_notice(1, action))
        verdict = rule_set.judge_by_defaults(event, ())
        assert (verdict is not None) is fatal
        if verdict is not None:
            assert verdict.rule == "memory_failure"


# ---------------------------------------------------------------- libvirt's files

STATUS = """\
<!-- by hand -->
<domstatus state='paused' reason='ioerror' pid='{pid}'>
  <domain type='kvm' id='1'><name>{name}</name><uuid>{uuid}</uuid>
    <devices><disk><name>other</name></disk></devices></domain>
</domstatus>
"""


def test_status_files_name_uuid_and_process(tmp_path: Path) -> None:
    files = StatusFiles(tmp_path / "none")
    assert files.read_all_statuses() == []  # libvirtd has never run
    files = StatusFiles(tmp_path)
    path = tmp_path / "vm1.xml"
    path.write_text(STATUS.format(pid=4711, name="vm1", uuid=VM1.uuid))
    (tmp_path / "driver.pid").write_text("1")
    assert files.read_all_statuses() == [StatusFile("vm1", VM1.uuid, 4711, "paused", "ioerror")]
    new = tmp_path / "vm1.xml.new"
    new.write_text(STATUS.format(pid=4712, name="vm1", uuid=VM1.uuid))
    new.rename(path)
    assert [status.pid for status in files.read_all_statuses()] == [4712]
    path.unlink()
    assert files.read_all_statuses() == []
    # What cannot be understood must not look like a host without domains.
    path.write_text("<domstatus state='running'")
    assert files.read_all_statuses() == []
    with pytest.raises(TransportError, match=r"vm1\.xml"):
        files.read_status_of("vm1")
    (tmp_path / "vm2.xml").write_text(STATUS.format(pid=4713, name="vm2", uuid=VM1.uuid))
    assert [status.name for status in files.read_all_statuses()] == ["vm2"]

    async def ask() -> None:
        transport = KvmTransport(run_dir=str(tmp_path))
        with pytest.raises(TransportError, match=r"vm1\.xml"):
            await transport.find_domain("vm1")
        with pytest.raises(TransportError, match=r"vm1\.xml"):
            await transport.report_domain(VM1)
        assert await transport.find_domain("vm2") is None  # of that process there is no lock

    asyncio.run(ask())


@given(st.binary(max_size=200) | st.text(alphabet="<>/'= domstaupinme0", max_size=60))
def test_any_status_file_is_survived(content: bytes | str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        data = content.encode() if isinstance(content, str) else content
        (Path(directory) / "x.xml").write_bytes(data)
        assert StatusFiles(Path(directory)).read_all_statuses() == []


HOLD = """\
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locker(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a pid file as QEMU does."""
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_a_pid_file_is_believed_only_if_its_process_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "vm1.pid"
    assert not status_files.is_lock_holder(os.getpid(), path)
    path.write_text(str(os.getpid()))
    assert not status_files.is_lock_holder(os.getpid(), path)
    with locker(path) as process:
        assert status_files.is_lock_holder(process.pid, path)
        assert not status_files.is_lock_holder(os.getpid(), path)
        begun = status_files.process_start_time(process.pid)
        assert begun is not None and begun > 0
    assert not status_files.is_lock_holder(process.pid, path)
    assert status_files.process_start_time(process.pid) is None


def test_of_hundreds_that_have_ended_each_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirtd is away, so their files are still there; each look at all took seconds."""
    with subprocess.Popen(["true"]) as ended:
        pass
    names = [f"vm{number}" for number in range(300)]
    for name in names:
        (tmp_path / f"{name}.xml").write_text(
            STATUS.format(pid=ended.pid, name=name, uuid=f"uuid of {name}")
        )
    looks: list[str] = []
    meet = QemuProcessWatch.watch_process

    def counted(status: StatusFile, *rest: Any) -> QemuProcessWatch | None:
        looks.append(status.name)
        return meet(status, *rest)

    monkeypatch.setattr(QemuProcessWatch, "watch_process", counted)

    async def ask() -> None:
        transport = KvmTransport(run_dir=str(tmp_path))
        for name in names:
            report = await transport.report_domain(Domain(name, 1, f"uuid of {name}"))
            assert report.state is DomainState.GONE

    asyncio.run(ask())
    assert looks == names


HIDDEN = """\
import asyncio, pathlib, sys
from kvm_transport.qemu_process_watch import QemuProcessWatch
from kvm_transport.status_files import StatusFile
from vesper_monitor.hypervisor.transport import TransportError
async def meet(pid):
    try:
        status = StatusFile("vm1", "", pid, "", "")
        return QemuProcessWatch.watch_process(status, pathlib.Path(sys.argv[2]), print)
    except TransportError as error:
        return error
print(asyncio.run(meet(int(sys.argv[1]))))
"""


def test_a_process_that_proc_hides_has_not_ended(tmp_path: Path) -> None:
    """hidepid for all but a group, where a sandbox leaves no CAP_SYS_PTRACE."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    hide = "mount -t proc -o hidepid=2,gid=1 proc /proc && exec setpriv --bounding-set=-all"
    meet = ["unshare", "-m", "sh", "-c", f'{hide} "$@"', "sh", sys.executable, "-c", HIDDEN]

    def met(pid: int) -> str:
        return subprocess.run(
            [*meet, str(pid), str(tmp_path)],
            cwd=PROJECT, stdout=subprocess.PIPE, text=True, timeout=60, check=True,
        ).stdout.strip()  # fmt: skip

    file = tmp_path / "vm1.pid"
    file.write_text("")
    as_nobody = HOLD.replace('print("', 'import os; os.setuid(65534); print("')
    with subprocess.Popen(
        [sys.executable, "-c", as_nobody, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        assert "hidepid" in met(process.pid)
        process.kill()
    assert met(process.pid) == "None"


def test_a_process_that_holds_no_lock_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status file that libvirt has left may name anybody's process by now."""
    held: list[int] = []
    monkeypatch.setattr(os, "pidfd_open", held.append)
    status = StatusFile("vm1", "u", os.getpid(), "", "")
    assert QemuProcessWatch.watch_process(status, tmp_path, print) is None
    (tmp_path / "vm1.pid").write_text(str(os.getpid()))
    assert QemuProcessWatch.watch_process(status, tmp_path, print) is None
    assert not held


def test_a_guest_whose_qemu_ends_while_it_is_activated_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []

    class Link:
        lose_link = staticmethod(lost.append)

    async def activate_guest(_client: object, pid: int, *_rest: object) -> Link:
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(ended.wait(), 10)
        return Link()

    monkeypatch.setattr(KvmLink, "connect_guest", activate_guest)
    ended = asyncio.Event()
    (tmp_path / "vm1.pid").write_text("")

    async def connect(pid: int) -> None:
        transport = KvmTransport(run_dir=str(tmp_path))
        transport._doorbells = Doorbells()
        (tmp_path / "vm1.xml").write_text(STATUS.format(pid=pid, name="vm1", uuid="u"))
        [domain] = await transport.list_domains()
        [life] = transport._lives.values()
        life._on_end = lambda _life: ended.set()
        await transport.connect_domain(domain, 10.0)

    with locker(tmp_path / "vm1.pid") as process:
        asyncio.run(connect(process.pid))
    assert lost == ["its QEMU has ended"]


def test_threads_of_virtual_cpus() -> None:
    """Named as QEMU names them; one computes."""
    script = """\
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
def thread(name, work):
    libc.prctl(15, name.encode())  # PR_SET_NAME
    os.write(1, b"named\\n")
    work()
def spin():
    while True: pass
for name, work in (("CPU 1/KVM", lambda: time.sleep(1000)), ("CPU 0/KVM", spin),
                   ("IO mon_iothread", lambda: time.sleep(1000))):
    threading.Thread(target=thread, args=(name, work), daemon=True).start()
time.sleep(1000)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == b"named\n"
        first = status_files.read_vcpu_use(process.pid)
        assert [use.cpu for use in first] == [0, 1]
        while status_files.read_vcpu_use(process.pid)[0].ran < first[0].ran + 0.1:
            assert process.poll() is None
        assert status_files.read_vcpu_use(process.pid)[1].ran <= first[1].ran + 0.05
    finally:
        process.kill()
        process.communicate(timeout=10)
    with pytest.raises(TransportError):
        status_files.read_vcpu_use(process.pid)
    with pytest.raises(TransportError, match="no thread"):
        status_files.read_vcpu_use(os.getpid())
