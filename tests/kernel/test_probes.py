# SPDX-License-Identifier: GPL-2.0-or-later
"""Each probe with its fault, which really happens in a real guest kernel.

send_signal and out_of_memory: test_guest_kernel.py.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import images
from lab.images.kernel import module_files
from lab.session_listener import EventListener
from tests.kernel.support.loopback_guest import TestGuest
from tests.kernel.support.machine import Machine, machine
from tests.kernel.support.machine_transport import MachineTransport
from tests.unit.support.standins import until
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.guest.event import Event
from vesper_monitor.guest.session import Session
from vesper_monitor.guest.session_state import SessionState
from vesper_monitor.rules.rule_set import RuleSet, Scope, judge_by_defaults

Boot = Callable[..., Any]

#: s for an emulated guest to do something, on a busy machine.
SLOW_S = 60.0

VIRTIO_EXT4 = ("virtio_pci", "virtio_blk", "ext4")


def disk_image(directory: Path, fstype: str, megabytes: int) -> Path:
    """A disk with an empty file system."""
    path = directory / f"{fstype}.img"
    with path.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run([f"mkfs.{fstype}", "-q", path], check=True, capture_output=True, timeout=60)
    return path


def virtio_disk(path: Path, *rules: dict[str, object]) -> list[str]:
    """QEMU's arguments for a disk, with rules for the errors it is to have."""
    node: dict[str, object] = {
        "driver": "blkdebug",
        "node-name": "disk",
        "image": {"driver": "file", "filename": str(path)},
    }
    if rules:
        node["inject-error"] = rules
    return ["-blockdev", json.dumps(node), "-device", "virtio-blk-pci,drive=disk"]


def test_process_exit_records_ends(run: Boot) -> None:
    """Status, signal and OOM; of named processes, else of those that have lived a while."""
    result = run(
        """\
load process_exit /process_exit.ko names=httpd,two,tail
crash httpd
outlive two
sh true
sh tail /dev/zero
records process_exit
unload process_exit
load process_exit /process_exit.ko min_age_ms=1500
sh sleep 2; exit 3
sh true
crash young
records process_exit
unload process_exit
"""
    )
    ends = [event.fields for event in result.events("process_exit")]
    assert len(ends) == 5  # once each, though one had two threads
    by_comm = {end["comm"]: end for end in ends}

    httpd = by_comm["httpd"]
    assert httpd["pid"] == int(result.line("crash httpd:"))
    assert (httpd["signal"], httpd["status"], httpd["oom"]) == ("SIGSEGV", 0, False)
    assert httpd["parent_comm"] == "vsp_host"
    two = by_comm["two"]
    assert two["pid"] == int(result.line("outlive two:"))
    assert (two["signal"], two["status"]) == (None, 7)
    assert 100 <= two["age_ms"] < 60_000
    tail = by_comm["tail"]
    assert (tail["signal"], tail["oom"]) == ("SIGKILL", True)
    assert by_comm["sleep"]["status"] == 0
    shell = by_comm["sh"]
    assert (shell["status"], shell["signal"]) == (3, None)
    assert shell["age_ms"] >= 2000


def test_hung_task_records_a_hung_task(run: Boot, tmp_path: Path) -> None:
    """A process that writes to a frozen file system, found by khungtaskd, without its log."""
    result = run(
        """\
load hung_task /hung_task.ko
sh fsfreeze --freeze /mnt; tee /mnt/file </dev/null & sleep 6; fsfreeze --unfreeze /mnt; wait
records hung_task
unload hung_task
sh umount /mnt
""",
        setup="mkdir /mnt; mount -t ext4 /dev/vda /mnt; cd /proc/sys/kernel; "
        "echo 0 >hung_task_warnings; echo 1 >hung_task_timeout_secs; cd /",
        modules=VIRTIO_EXT4,
        qemu=virtio_disk(disk_image(tmp_path, "ext4", 32)),
    )
    first, *again = result.events("hung_task")
    assert first.fields["comm"] == first.fields["leader_comm"] == "tee"
    assert first.fields["pid"] == first.fields["tgid"]
    assert first.fields["waited_s"] >= 1
    assert {event.fields["pid"] for event in again} <= {first.fields["pid"]}
    assert again, "said once only, though it went on hanging"
    assert judge_by_defaults(first, ["tee"]) is not None
    assert judge_by_defaults(first, ["httpd"]) is None


def test_block_error_records_errors_of_a_disk(run: Boot, tmp_path: Path) -> None:
    """A disk with a bad sector; the rest of it works."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * (1 << 20))
    result = run(
        """\
load block_error /block_error.ko
sh dd if=/dev/vda of=/dev/null bs=4096 count=1 skip=100 iflag=direct
sh dd if=/dev/vda of=/dev/null bs=4096 count=1 skip=200 iflag=direct
sh dd if=/dev/zero of=/dev/vda bs=4096 count=1 seek=10 oflag=direct
records block_error
unload block_error
load block_error /block_error.ko max_per_s=1
sh for i in 1 2 3 4 5; do dd if=/dev/vda of=/dev/null bs=4096 count=1 skip=200 iflag=direct; done
sh sleep 1
sh dd if=/dev/vda of=/dev/null bs=4096 count=1 skip=200 iflag=direct
records block_error
unload block_error
load block_error /block_error.ko max_per_s=0
sh for i in 1 2 3 4 5; do dd if=/dev/vda of=/dev/null bs=4096 count=1 skip=200 iflag=direct; done
records block_error
unload block_error
""",
        modules=("virtio_pci", "virtio_blk"),
        qemu=virtio_disk(
            disk,
            {"event": "none", "iotype": "read", "sector": 1602, "errno": 5},
            {"event": "none", "iotype": "write", "errno": 5},
        ),
    )
    events = [event.fields for event in result.events("block_error")]
    bad_read = {
        "disk": "vda", "op": "read", "sector": 1600, "bytes": 4096, "error": "EIO", "left_out": 0,
    }  # fmt: skip
    assert all(event.pop("dev").endswith(":0") for event in events)
    first, second = events[:2]
    assert sorted([first["op"], second["op"]]) == ["read", "write"]
    assert bad_read in (first, second)
    write = second if first == bad_read else first
    assert (write["sector"], write["error"]) == (80, "EIO")
    # One a second: the next one says how many there were before it.
    later = sorted(events[2:-5], key=lambda event: event["left_out"])
    assert later == [bad_read, {**bad_read, "left_out": 4}]
    assert events[-5:] == [bad_read] * 5  # 0: all


@pytest.mark.parametrize(
    ("fstype", "megabytes", "mount"),
    [
        ("ext4", 32, "/srv/www/data"),
        ("xfs", 300, "/srv/its data"),
        ("btrfs", 128, f"/srv/{'long/' * 30}data"),
    ],
    ids=["ext4", "xfs", "btrfs"],
)
def test_fs_error_records_errors_of_each_file_system(
    run: Boot, tmp_path: Path, fstype: str, megabytes: int, mount: str
) -> None:
    """A disk that goes under a mounted file system, whose module came after the probe."""
    late = module_files(images.kernel_of_tree(), fstype)
    image = disk_image(tmp_path, fstype, megabytes)
    result = run(
        f"""\
load fs_error /fs_error.ko
sh for module in $(cat /late); do insmod /$module; done
sh mkdir /mnt /srv; mount -t tmpfs srv /srv; mkdir -p "{mount}"
sh mount -t {fstype} /dev/sda /mnt
sh echo first >/mnt/first; sync; umount /mnt
sh mount -t {fstype} /dev/sda "{mount}"; mount -o bind "{mount}" /mnt
sh sleep 1
records fs_error
sh echo second >/mnt/second; sync
sh echo offline >/sys/block/sda/device/state; echo third >>/mnt/second; sync
sh umount /mnt; umount "{mount}"
records fs_error
unload fs_error
""",
        files={
            "late": "".join(f"{path.name}\n" for path in late).encode(),
            **{path.name: path.read_bytes() for path in late},
        },
        modules=("virtio_pci", "virtio_scsi", "sd_mod"),
        qemu=[
            "-blockdev", f"driver=file,filename={image},node-name=disk",
            "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk",
        ],
    )  # fmt: skip
    quiet, _after = "\n".join(result.said).split("records fs_error: end\n", 1)
    assert "record fs_error" not in quiet
    events = result.events("fs_error")
    assert 1 <= len(events) <= 5
    assert {event.fields["fstype"] for event in events} == {fstype}
    assert {event.fields["disk"] for event in events} == {"sda"}
    shown = mount if len(mount) < 128 else mount[-127:].removeprefix("/")
    assert events[0].fields["mount"] == shown  # the first of two
    assert events[0].fields["error"] == "EIO"
    verdict = judge_by_defaults(events[0], [])
    assert verdict is not None
    assert verdict.scope is Scope.SYSTEM
    if fstype == "ext4":
        rule = RuleSet('fs_error: mount == "/srv/www/data"')
        assert rule.judge_event(events[0], []) is not None
    assert RuleSet('fs_error: mount == "/mnt"').judge_event(events[0], []) is None


def test_fs_error_stays_during_an_umount(run: Boot, tmp_path: Path) -> None:
    """An umount that waits for a disk blocks neither UNLOAD nor the other requests."""
    image = disk_image(tmp_path, "ext4", 32)
    result = run(
        """\
sh insmod /vsp_wedge.ko; mkdir /mnt /other; mount -t ext4 /dev/sda /mnt
load fs_error /fs_error.ko
sh echo umount /mnt >/proc/vsp_wedge &
sh sleep 1; mount -t tmpfs other /other; sleep 1
unload fs_error
table
sh echo release >/proc/vsp_wedge; sleep 1
unload fs_error
""",
        modules=("virtio_pci", "virtio_scsi", "sd_mod", "ext4"),
        qemu=[
            "-blockdev", f"driver=file,filename={image},node-name=disk",
            "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk",
        ],
    )  # fmt: skip
    unloads = [line for line in result.said if line.startswith("unload fs_error: ")]
    assert [line.split()[2] for line in unloads] == [str(-errno.EWOULDBLOCK), "0"]
    assert "table: 1 channels" in result.said


def test_fs_error_records_a_shutdown_by_hand(run: Boot, tmp_path: Path) -> None:
    """Somebody has asked for it: told, but no fault."""
    image = disk_image(tmp_path, "xfs", 300)
    result = run(
        """\
load fs_error /fs_error.ko
goingdown /mnt
sh umount /mnt
records fs_error
unload fs_error
load fs_error /fs_error.ko
sh rmmod xfs
unload fs_error
""",
        setup="mkdir /mnt; mount -t xfs /dev/vda /mnt",
        modules=("virtio_pci", "virtio_blk", "xfs"),
        qemu=virtio_disk(image),
    )
    assert result.line("goingdown /mnt:") == "0"
    (event,) = result.events("fs_error")
    assert (event.fields["fstype"], event.fields["error"]) == ("xfs", "ESHUTDOWN")
    assert (event.fields["disk"], event.fields["mount"]) == ("vda", "/mnt")
    assert judge_by_defaults(event, []) is None
    assert result.said.count("unload fs_error: 0 ") == 2


def test_net_link_records_links(run: Boot, tmp_path: Path) -> None:
    """A cable pulled by QEMU, which the guest asks for it, and commands of an administrator."""
    monitor = tmp_path / "monitor"
    result = run(
        """\
load net_link /net_link.ko
sh printf '\\nset_link net0 off\\n' >/dev/ttyS1; sleep 2
sh printf '\\nset_link net0 on\\n' >/dev/ttyS1; sleep 2
sh ip addr add 10.0.2.9/24 dev eth0; ip addr del 10.0.2.9/24 dev eth0
sh ip addr del 10.0.2.8/24 dev eth0
sh ip addr add 10.0.2.7/24 dev eth0
sh ip link set lo up; ip link add veth0 type veth peer name veth1; ip link del veth0
sh ip link set eth0 down
records net_link
unload net_link
load net_link /net_link.ko
sh rmmod virtio_net
records net_link
unload net_link
""",
        # Without an echo: QEMU would take its own prompt for a command.
        setup="stty -F /dev/ttyS1 raw -echo; ip link set eth0 up; "
        "ip addr add 10.0.2.8/24 dev eth0; sleep 1",
        modules=("virtio_pci", "virtio_net", "veth"),
        qemu=[
            "-netdev", "user,id=user0,restrict=on",
            "-device", "virtio-net-pci,netdev=user0,id=net0",
            "-chardev", f"socket,id=monitor,path={monitor},server=on,wait=off",
            "-mon", "chardev=monitor",
            "-chardev", f"socket,id=port,path={monitor}", "-serial", "chardev:port",
        ],
    )  # fmt: skip
    events = result.events("net_link")
    assert {event.fields["device"] for event in events} == {"eth0"}
    assert [(event.fields["change"], event.fields["address"]) for event in events] == [
        ("link_lost", None),
        ("link_back", None),
        ("address_lost", "10.0.2.8"),
        ("address_back", "10.0.2.7"),
        ("down", None),
        ("address_lost", "10.0.2.7"),
        ("removed", None),
    ]
    assert events[2].text == "network device eth0 has lost its last address 10.0.2.8"
    assert all(judge_by_defaults(event, ["httpd"]) is None for event in events)


def test_memory_failure_records_a_poisoned_page(run: Boot) -> None:
    """A page of a process is poisoned by madvise(2), as a machine check would do it."""
    result = run(
        """\
load memory_failure /memory_failure.ko
load send_signal /send_signal.ko
hwpoison victim
records memory_failure
records send_signal
unload memory_failure
unload send_signal
"""
    )
    assert result.line("hwpoison victim:").endswith("Bus error")
    (failure,) = result.events("memory_failure")
    assert failure.fields["result"] == "recovered"
    assert failure.fields["type"] in ("dirty LRU page", "clean LRU page")
    assert failure.fields["pfn"] > 0
    assert judge_by_defaults(failure, ["victim"]) is None
    lost = copy.copy(failure)
    lost.fields = {**failure.fields, "result": "failed"}
    verdict = judge_by_defaults(lost, [])
    assert verdict is not None
    assert verdict.reason == f"memory failure in a {failure.fields['type']}: failed (system)"
    # What it leads to is a fault of the service, once.
    signals = [
        e for e in result.events("send_signal") if judge_by_defaults(e, ["victim"]) is not None
    ]
    assert [event.fields["signal"] for event in signals] == ["SIGBUS"]


def test_lockup_and_die_record_a_kernel_in_trouble(test_guest: TestGuest, tmp_path: Path) -> None:
    """An oops, a CPU that spins for 20 s, and a panic, as a host sees them."""
    store = tmp_path / "images" / test_guest.kernel.release
    store.mkdir(parents=True)
    for path in test_guest.files:
        if path.stem in ("lockup", "die"):
            (store / path.name).write_bytes(path.read_bytes())

    async def body(guest: Machine) -> None:
        events: list[Event] = []

        def of(event: str, kind: str) -> list[dict[str, Any]]:
            return [e.fields for e in events if e.event == event and e.fields["kind"] == kind]

        transport = MachineTransport(guest)
        session = Session(
            transport, transport.domain, ImageStore(tmp_path / "images"),
            EventListener(events.extend),
        )  # fmt: skip
        task = asyncio.create_task(session.run_session())
        try:
            await until(lambda: session.state is SessionState.ACTIVE, "active", SLOW_S)
            for probe in ("lockup", "die"):
                await session.load_probe(probe)
            guest.tell(
                "echo 1 >/proc/sys/kernel/watchdog_thresh; "
                "echo 3 >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout; "
                "insmod /vsp_wedge.ko; sh -c 'echo oops >/proc/vsp_wedge' & wait"
            )
            await until(lambda: of("die", "oops"), "an oops", SLOW_S)
            (oops,) = of("die", "oops")
            assert oops["symbol"].startswith("wedge_oops+0x")
            # A page fault (no trap is noted) that wrote in the kernel, where nothing was.
            assert (oops["comm"], oops["str"], oops["trapnr"], oops["err"]) == ("sh", "Oops", 0, 2)

            guest.tell("taskset 2 sh -c 'echo stall >/proc/vsp_wedge' & "
                       "for i in 1 2 3 4 5 6 7 8; do sh -c true; sleep 1; done; wait")  # fmt: skip
            await until(lambda: of("lockup", "soft"), "a soft lockup", 2 * SLOW_S)
            await until(lambda: of("lockup", "rcu"), "an RCU stall", 2 * SLOW_S)
            assert {(f["cpu"], f["comm"]) for f in of("lockup", "soft")} == {(1, "sh")}
            assert {f["cpu"] for f in of("lockup", "rcu")} == {1}

            await asyncio.sleep(15)
            guest.tell("echo c >/proc/sysrq-trigger")
            await until(lambda: of("last_words", "panic"), "a panic", 2 * SLOW_S)
            (panic,) = of("die", "panic")
            assert (panic["str"], panic["symbol"]) == ("sysrq triggered crash", "")
            # One fault is one failure: the last words are it.
            faults = [verdict for event in events if (verdict := judge_by_defaults(event, ["sh"]))]
            assert [verdict.rule for verdict in faults] == ["kernel_oops", "kernel_panic"]
        except AssertionError:
            print(guest.console)
            raise
        finally:
            await session.close_session(deactivate=False)
            await asyncio.wait_for(task, 10)

    with machine(test_guest.kernel, test_guest.files, tmp_path, cmdline="panic=0") as guest:
        asyncio.run(body(guest))
