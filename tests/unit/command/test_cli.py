# SPDX-License-Identifier: GPL-2.0-or-later
"""The command vesper: what people and scripts see, and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.standin.image import RELEASE
from tests.unit.support.daemons import PROJECT, RESOURCE, DaemonProcess, Monitor
from tests.unit.support.standins import GuestProcess, guest
from vesper_monitor.command.main import main
from vesper_monitor.command.table import format_columns
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


def test_status_events_and_faults_show_a_fault_until_it_is_cleared(
    daemon: DaemonProcess, vm1: GuestProcess
) -> None:
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
    header, line = daemon.vesper("faults").stdout.splitlines()
    assert header.split()[3:5] == ["CLASS", "STATE"]
    assert line.split()[4:6] == ["service", "told"]  # SEEN has two words
    fault = json.loads(daemon.vesper("faults", "--json").stdout)[0]
    assert (fault["rule"], fault["class"]) == ("send_signal", "service")
    assert daemon.vesper("faults", "clear", "r1").returncode == 0
    again = daemon.vesper("faults", "clear", "1")
    assert again.returncode == 1
    assert again.stderr == (
        "vesper: 1: no fault is held; list the faults with: vesper faults\n"
    )
    assert "ended by operator" in daemon.vesper("faults").stdout


def vesper_in_a_shell(
    daemon: DaemonProcess, *words: str, redirect: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command, with its output as bytes."""
    command = [sys.executable, "-m", "vesper_monitor.command.main", *words]
    return subprocess.run(
        ["sh", "-c", f"exec {shlex.join(command)} {redirect}"],
        env={**daemon._environment, **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "euc-jp"])
def test_names_that_the_terminal_cannot_show_are_escaped(
    daemon: DaemonProcess, vm1: GuestProcess, encoding: str
) -> None:
    """A process's name is whatever its guest wants; the locale is the operator's."""
    before = json.loads(daemon.vesper("events", "--json", "-n", "1").stdout or '{"id": 0}')["id"]
    asyncio.run(vm1.tell("emit", "send_signal", "sig=10", "comm=\u65e5\u00b5\u2192"))
    end = time.monotonic() + 30
    while not daemon.events(vm="vm1", since=before):
        assert time.monotonic() < end
        time.sleep(0.05)
    since = ("--since", str(before))
    shown = vesper_in_a_shell(daemon, "events", *since, PYTHONIOENCODING=encoding)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"[97]" in shown.stdout
    told = vesper_in_a_shell(daemon, "events", *since, "--json", PYTHONIOENCODING=encoding)
    assert json.loads(told.stdout)["fields"]["comm"] == "\u65e5\u00b5\u2192"
    for words in (("probe", "info"), ("advise", "vm1"), ("status",), ("faults",)):
        done = vesper_in_a_shell(daemon, *words, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("words", [("status",), ("events", "--json"), ("--help",)])
def test_a_full_or_closed_output_is_no_traceback(
    daemon: DaemonProcess, vm1: GuestProcess, words: tuple[str, ...]
) -> None:
    full = vesper_in_a_shell(daemon, *words, redirect=">/dev/full")
    assert (full.returncode, full.stderr) == (1, b"vesper: output: No space left on device\n")
    closed = vesper_in_a_shell(daemon, *words, redirect=">&-")
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_rules_are_tried_on_what_is_recorded(
    daemon: DaemonProcess, vm1: GuestProcess, tmp_path: Path
) -> None:
    before = json.loads(daemon.vesper("events", "--json", "-n", "1").stdout or '{"id": 0}')["id"]
    for pid in range(3):
        asyncio.run(vm1.tell("emit", "out_of_memory", "comm=cron", f"pid={pid}"))
    end = time.monotonic() + 30
    while len(daemon.events(vm="vm1", since=before)) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    since = ("--vm", "vm1", "--since", str(before))
    default = daemon.vesper("rules", "check", *since)
    assert default.stdout.startswith("3 of 3 events would have been faults.\n"), default.stderr
    assert "out of memory: cron[2]" in default.stdout

    counted = tmp_path / "rules"
    counted.write_text("# thrice\nout_of_memory: not main, 3 in 1h;\n mine: any")
    answer = daemon.vesper("rules", "check", str(counted), *since, "--json")
    tried = json.loads(answer.stdout)
    (fault,) = tried["faults"]
    assert tried["events"] == 3
    assert fault["event"]["fields"]["pid"] == 2
    assert fault["text"] == "out_of_memory: not main, 3 in 1h"
    assert fault["reason"].startswith("3 within 3600 s, the last: out of memory: cron[2] ")
    assert tried["doubts"][0].startswith("line 3, column 2: mine is not a built-in probe")
    # A service is one of the resource's, or of those that are given.
    named = daemon.vesper(
        "rules", "check", "-e", "out_of_memory: main", *since, "--service", "cron"
    )
    assert named.stdout.startswith("3 of 3 ")
    none = daemon.vesper("rules", "check", *since[:3], "1h", "-e", "out_of_memory: none")
    # What was in force has called the first of them a fault.
    faults = json.loads(daemon.vesper("faults", "--vm", "vm1", "--json").stdout)
    (was,) = [f["id"] for f in faults if f["event"]["fields"].get("comm") == "cron"]
    assert f" vm1  {was} " in default.stdout.splitlines()[2]
    assert [dropped["fault"] for dropped in tried["dropped"]] == [was]
    assert fault["was"] == []
    found, dropped = none.stdout.split(
        "These events were faults, and would no longer be faults:\n"
    )
    assert "out of memory" not in found
    assert "out of memory: cron[0]" in dropped
    assert daemon.vesper("rules", "check", "--since", "soon").returncode == 2

    wrong = daemon.vesper("rules", "check", "-e", "out_of_memory: order = 1")
    assert wrong.returncode == 1
    assert wrong.stderr == (
        "vesper: rules: line 1, column 22: '=' is not expected here; to compare write ==\n"
        "  out_of_memory: order = 1\n"
        "                       ^\n"
    )
    # Of the VM's own resource, and without a daemon.
    daemon.call("change", **{**RESOURCE, "fault_on": "hang: none"})
    explained = json.loads(daemon.vesper("rules", "explain", "--vm", "vm1", "--json").stdout)
    said = {entry["probe"]: entry for entry in explained["probes"]}
    assert said["hang"]["default"] is False
    assert said["hang"]["rules"] == [{"text": "hang: none", "words": "no event is a fault"}]
    assert said["out_of_memory"]["default"] is True
    daemon.call("change", **{**RESOURCE, "fault_on": ""})

    advised = json.loads(daemon.vesper("advise", "vm1", "--json").stdout)
    memory = next(one for one in advised["advice"] if one["name"] == "out-of-memory")
    assert memory["reason"].startswith("it is on record ")
    assert advised["services"] == ["httpd"]
    assert "fs_error" in advised["probes"]
    assert advised["fault_on"] == ""
    assert advised["faults"] >= 3
    people = daemon.vesper("advise", "vm1", "--symptom", "the thin pool is full")
    assert """  fault_on='block_error: error == "ENOSPC"'\n""" in people.stdout, people.stderr
    assert "crm resource param r1 set fault_on " in people.stdout
    assert "pcs resource update r1 probes=" in people.stdout


def test_relay_cat_gives_the_records_as_they_are(daemon: DaemonProcess, vm1: GuestProcess) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "vesper_monitor.command.main", "--socket", str(daemon.socket),
         "relay", "cat", "vm1", "send_signal", "--cpu", "0"],
        stdout=subprocess.PIPE, cwd=PROJECT,
    ) as cat:  # fmt: skip
        try:
            assert cat.stdout is not None
            os.set_blocking(cat.stdout.fileno(), False)
            data, end = b"", time.monotonic() + 30
            while not data:  # until it listens
                assert time.monotonic() < end
                asyncio.run(vm1.tell("emit", "send_signal", "comm=cron"))
                data += cat.stdout.read() or b""
            record = abi.SendSignal.from_buffer_copy(data)
            assert len(data) % record.rec.len == 0
            assert (record.rec.event, record.leader_comm) == (1, b"cron")
        finally:
            cat.kill()
    answer = daemon.vesper("relay", "cat", "vm1", "nothing")
    assert answer.returncode == 1
    assert "no probe nothing is loaded (send_signal, out_of_memory)" in answer.stderr


def test_probe_commands_list_load_unload_and_build(
    daemon: DaemonProcess, vm1: GuestProcess, tmp_path: Path
) -> None:
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


def test_an_unknown_vm_is_an_error_that_names_it(daemon: DaemonProcess) -> None:
    for command in (("activate", "nix"), ("deactivate", "nix"), ("status", "nix")):
        answer = daemon.vesper(*command)
        assert answer.returncode == 1
        assert answer.stderr.startswith("vesper: ")
        assert "nix" in answer.stderr
        assert "Traceback" not in answer.stderr


def test_without_vesperd_the_exit_status_is_3(daemon: DaemonProcess, tmp_path: Path) -> None:
    answer = daemon.vesper("--socket", str(tmp_path / "none"), "status")
    assert answer.returncode == 3
    assert "vesperd is not running; start it with: systemctl start vesperd" in answer.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["events", "-n", "x"], ["probe"], ["relay", "cat", "vm1"]]
)
def test_a_wrong_command_line_names_the_help(daemon: DaemonProcess, arguments: list[str]) -> None:
    answer = daemon.vesper(*arguments)
    assert answer.returncode == 2
    assert "--help" in answer.stderr


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert (
        format_columns(("A", "LONG"), [("wide", None), ("x", 5)]) == "A     LONG\nwide  -\nx     5"
    )


def test_an_answer_that_is_not_vesperds_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another program listens there, or vesperd is of another version."""
    path = tmp_path / "sock"
    for answer in (b'{"ok": true}', b'{"ok": true, "vms": 5}', b"[" * 100_000, b"x"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()

            def serve(listener: socket.socket = listener, answer: bytes = answer) -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(1000)
                    peer.sendall(answer + b"\n")

            thread = threading.Thread(target=serve)
            thread.start()
            assert main(["--socket", str(path), "status"]) != 0
            thread.join(10)
        path.unlink()
        said = capsys.readouterr().err
        assert str(path) in said
        assert "not" in said
