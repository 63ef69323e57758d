# SPDX-License-Identifier: GPL-2.0-or-later
"""The command vesper: what people and scripts see, and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.standin.image import RELEASE
from tests.host.daemons import PROJECT, RESOURCE, DaemonProcess, Monitor
from tests.host.standins import GuestProcess, guest
from vesper_monitor.command.table import columns
from vesper_monitor.guest import abi

HEADER = "VM ID ON RESOURCE STATE PROBES RECORDS LOST MONITOR"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("vesperd")
    (directory / "domains").mkdir()
    os.environ["VESPER_STANDIN_DIR"] = str(directory / "domains")
    daemon = DaemonProcess(directory, "activate_timeout = 2.0")
    daemon.start()
    yield daemon
    daemon.stop()
    del os.environ["VESPER_STANDIN_DIR"]


@pytest.fixture(scope="module")
def vm1(daemon: DaemonProcess) -> Iterator[GuestProcess]:
    with guest("vm1") as process:
        assert daemon.vesper("activate", "vm1").stdout == "vm1: active\n"
        daemon.call("start", **RESOURCE)
        assert Monitor(daemon).result() == "fine"
        yield process


def test_status_events_faults(daemon: DaemonProcess, vm1: GuestProcess) -> None:
    assert daemon.vesper("faults").stdout == "No faults.\n"
    asyncio.run(vm1.tell("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1"))
    assert Monitor(daemon).result() == "fault"
    lines = daemon.vesper("status").stdout.splitlines()
    assert " ".join(lines[0].split()) == HEADER
    assert lines[1].split()[:5] == ["vm1", "1", "standin", "r1", "fault"]
    assert lines[2] == ("  fault: vm1: httpd[97] killed by SIGSEGV sent by sh[80] uid 0 (service)")
    assert json.loads(daemon.vesper("status", "--json").stdout)["vms"][0]["fault"]["id"] == 1
    assert "SIGSEGV kills httpd[97]" in daemon.vesper("events").stdout
    event = json.loads(daemon.vesper("events", "--json").stdout)
    assert (event["id"], event["fields"]["signal"]) == (1, "SIGSEGV")
    assert "told" in daemon.vesper("faults").stdout
    assert json.loads(daemon.vesper("faults", "--json").stdout)[0]["rule"] == "send_signal"
    assert daemon.vesper("faults", "clear", "r1").returncode == 0
    again = daemon.vesper("faults", "clear", "1")
    assert again.returncode == 1
    assert again.stderr == "vesper: 1: no fault is held; see: vesper faults\n"
    assert "ended by operator" in daemon.vesper("faults").stdout


def test_relay_cat_gives_the_records_as_they_are(daemon: DaemonProcess, vm1: GuestProcess) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "vesper_monitor.command.main", "--socket", str(daemon.socket),
         "relay", "cat", "vm1", "send_signal", "--cpu", "0"],
        stdout=subprocess.PIPE, cwd=PROJECT,
    ) as cat:  # fmt: skip
        try:
            assert cat.stdout is not None
            os.set_blocking(cat.stdout.fileno(), False)
            data = b""
            for code in range(1000):  # until it listens
                asyncio.run(vm1.tell("emit", "send_signal", f"code={code}", "comm=cron"))
                data += cat.stdout.read() or b""
                if data:
                    break
            record = abi.SendSignal.from_buffer_copy(data)
            assert len(data) % record.rec.len == 0
            assert (record.rec.event, record.leader_comm) == (1, b"cron")
        finally:
            cat.kill()
    answer = daemon.vesper("relay", "cat", "vm1", "nothing")
    assert answer.returncode == 1
    assert "no probe nothing is loaded (send_signal, out_of_memory)" in answer.stderr


def test_probes(daemon: DaemonProcess, vm1: GuestProcess, tmp_path: Path) -> None:
    images = ("--probes-dir", str(daemon.images))
    lines = daemon.vesper("probe", "list", *images).stdout.splitlines()
    assert lines[0].split() == ["PROBE", "KERNEL", "IMAGE"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["out_of_memory", RELEASE], ["send_signal", RELEASE],
    ]  # fmt: skip
    nothing = daemon.vesper("probe", "list", "--probes-dir", str(tmp_path))
    assert "build them with: vesper probe build RELEASE" in nothing.stdout
    assert daemon.vesper("probe", "unload", "vm1", "out_of_memory").returncode == 0
    gone = daemon.vesper("probe", "unload", "vm1", "out_of_memory")
    assert (gone.returncode, gone.stderr) == (1, "vesper: vm1: probe out_of_memory is not loaded\n")
    loaded = daemon.vesper("probe", "load", "vm1", "out_of_memory")
    assert loaded.stdout == "vm1: out_of_memory loaded\n"
    failed = daemon.vesper("probe", "build", "9.9.9-none", *images)
    assert failed.returncode == 1
    assert "linux-headers-9.9.9-none" in failed.stderr


def test_vm_that_is_not_there(daemon: DaemonProcess) -> None:
    for command in (("activate", "nix"), ("deactivate", "nix"), ("status", "nix")):
        answer = daemon.vesper(*command)
        assert answer.returncode == 1
        assert answer.stderr.startswith("vesper: ")
        assert "nix" in answer.stderr
        assert "Traceback" not in answer.stderr


def test_without_vesperd(daemon: DaemonProcess, tmp_path: Path) -> None:
    answer = daemon.vesper("--socket", str(tmp_path / "none"), "status")
    assert answer.returncode == 3
    assert "vesperd is not running; start it with: systemctl start vesperd" in answer.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["events", "-n", "x"], ["probe"], ["relay", "cat", "vm1"]]
)
def test_wrong_command_lines(daemon: DaemonProcess, arguments: list[str]) -> None:
    answer = daemon.vesper(*arguments)
    assert answer.returncode == 2
    assert "--help" in answer.stderr


def test_a_table() -> None:
    assert columns(("A", "LONG"), [("wide", None), ("x", 5)]) == "A     LONG\nwide  -\nx     5"
