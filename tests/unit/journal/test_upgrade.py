# SPDX-License-Identifier: GPL-2.0-or-later
"""Today's vesperd takes over what version 0.1.0 has left on the disk."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.support.daemons import RESOURCE, DaemonProcess, Monitor, serve
from tests.unit.support.standins import GuestProcess

#: The tables of a journal of 0.1.0, as it made them.
TABLES = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY, vm TEXT NOT NULL, domid INTEGER NOT NULL, probe TEXT NOT NULL,
    event TEXT NOT NULL, cpu INTEGER NOT NULL, seq TEXT NOT NULL, guest_ns INTEGER NOT NULL,
    received REAL NOT NULL, fields TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX events_vm ON events (vm, id);
CREATE TABLE faults (
    id INTEGER PRIMARY KEY, resource TEXT NOT NULL, vm TEXT NOT NULL, uuid TEXT NOT NULL,
    domid INTEGER NOT NULL, instance TEXT NOT NULL, scope TEXT NOT NULL, rule TEXT NOT NULL,
    reason TEXT NOT NULL, event TEXT NOT NULL, seen REAL NOT NULL, told REAL, ended REAL,
    ended_by TEXT);
CREATE INDEX faults_instance ON faults (instance);
CREATE TABLE instances (
    id TEXT PRIMARY KEY, resource TEXT NOT NULL, vm TEXT NOT NULL, uuid TEXT NOT NULL,
    domid INTEGER NOT NULL, started REAL NOT NULL, probes TEXT NOT NULL,
    services TEXT NOT NULL, monitored INTEGER NOT NULL, ended REAL, hang_timeout REAL,
    pause_timeout REAL, transport TEXT NOT NULL DEFAULT '', fault_on TEXT NOT NULL DEFAULT '');
CREATE TABLE positions (
    uuid TEXT NOT NULL, domid INTEGER NOT NULL, boot_id TEXT NOT NULL, probe TEXT NOT NULL,
    generation INTEGER NOT NULL, cpu INTEGER NOT NULL, next_seq TEXT NOT NULL,
    PRIMARY KEY (uuid, domid, boot_id, probe, generation, cpu)) WITHOUT ROWID;
CREATE TABLE activations (vm TEXT PRIMARY KEY, probes TEXT NOT NULL);
CREATE TABLE host (boot_id TEXT NOT NULL, last_fault INTEGER NOT NULL DEFAULT 0);
CREATE TABLE last_words (
    event INTEGER PRIMARY KEY, vm TEXT NOT NULL, domid INTEGER NOT NULL, received REAL NOT NULL,
    kind TEXT NOT NULL, message TEXT NOT NULL, stack TEXT NOT NULL, log TEXT NOT NULL,
    complete INTEGER NOT NULL);
CREATE INDEX last_words_vm ON last_words (vm, event);
PRAGMA user_version=6;
"""

#: As 0.1.0 wrote the events and faults of two VMs; vm1's second fault is held.
ROWS = """
INSERT INTO events VALUES
 (1, 'vm2', 1, 'out_of_memory', 'out_of_memory', 0, '0', 5, {now} - 99,
  '{{"pid": 7, "comm": "cc1"}}', 'out of memory: kills cc1[7]'),
 (2, 'vm1', {domid}, 'send_signal', 'send_signal', 1, '18446744073709551615', 9, {now} - 9,
  '{{"sig": 11, "fatal": true}}', 'SIGSEGV kills httpd[97]'),
 (3, 'vm2', 1, 'vesper', 'last_words', 0, '1', 8, {now} - 80,
  '{{"kind": "panic"}}', 'kernel panic: of 0.1.0');
INSERT INTO last_words VALUES
 (3, 'vm2', 1, {now} - 80, 'panic', 'of 0.1.0', 'a stack', 'a log', 1);
INSERT INTO faults VALUES
 (1, 'r2', 'vm2', 'u2', 1, 'r2/u2/1/{started}', 'system', 'out_of_memory',
  'out of memory: cc1[7] (system)',
  '{{"id": 1, "vm": "vm2", "domid": 1, "probe": "out_of_memory", "event": "out_of_memory",
     "cpu": 0, "seq": 0, "guest_ns": 5, "received": 1, "fields": {{"pid": 7}}, "text": "oom"}}',
  {now} - 99, {now} - 98, {now} - 97, 'stop'),
 (2, 'r1', 'vm1', '{uuid}', {domid}, 'r1/{uuid}/{domid}/{started}', 'service', 'main_process',
  'httpd[97] killed by SIGSEGV (service)',
  '{{"id": 2, "vm": "vm1", "domid": {domid}, "probe": "send_signal", "event": "send_signal",
     "cpu": 1, "seq": 3, "guest_ns": 9, "received": 1, "fields": {{"sig": 11}}, "text": "sig"}}',
  {now} - 9, {now} - 8, NULL, NULL);
INSERT INTO instances VALUES
 ('r1/{uuid}/{domid}/{started}', 'r1', 'vm1', '{uuid}', {domid}, {started},
  '["send_signal", "out_of_memory"]', '["httpd"]', 1, NULL, 15.0, NULL, 'standin',
  'lockup: any'),
 ('r2/u2/1/{started}', 'r2', 'vm2', 'u2', 1, {started}, '["send_signal"]', '[]', 1, {now} - 97,
  NULL, NULL, 'standin', '');
INSERT INTO positions VALUES ('{uuid}', {domid}, '1', 'send_signal', 1, 0, '0');
INSERT INTO activations VALUES ('vm3', '["net_link"]');
INSERT INTO host VALUES ('{boot_id}', 0);
"""


@pytest.fixture
def upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    """vesperd on the files of 0.1.0 (the journal, points.json, pauses.json), with vm1."""
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    serving = serve(DaemonProcess(tmp_path, "activate_timeout = 0.5"))
    daemon = next(serving)
    guest = GuestProcess("vm1")
    try:
        daemon.call("start", **RESOURCE)
        (vm,) = daemon.call("status")["vms"]
        daemon.stop()
        now, boot_id = time.time(), Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        for file in tmp_path.glob("journal.sqlite*"):
            file.unlink()
        with sqlite3.connect(tmp_path / "journal.sqlite") as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(TABLES)
            rows = ROWS.format(
                now=now, started=now - 200, boot_id=boot_id, uuid=vm["uuid"], domid=vm["domid"]
            )
            db.executescript(rows)
        db.close()
        (tmp_path / "points.json").write_text('{"vm1": ["p:opened do_sys_openat2"]}')
        # 0.1.0 noted no deadline by a clock that nobody sets.
        pause = {"vm": "vm2", "since": now - 10, "until": now + 600, "reason": "a backup",
                 "boot_id": boot_id}  # fmt: skip
        (tmp_path / "pauses.json").write_text(json.dumps([pause]))
        daemon.start()
        yield daemon
        next(serving, None)
    finally:
        guest.kill()


def test_journal_points_and_pauses_are_taken_over(upgraded: DaemonProcess) -> None:
    # The journal: what has happened, with the class that 0.1.0 did not know.
    faults = upgraded.call("faults")["faults"]
    assert [(f["id"], f["class"], f["ended_by"]) for f in faults] == [
        (1, "memory", "stop"), (2, "service", None),
    ]  # fmt: skip
    assert [event["id"] for event in upgraded.events(vm="vm2")] == [1, 3]
    assert upgraded.events(vm="vm1")[0]["seq"] == (1 << 64) - 1
    with sqlite3.connect(upgraded.journal) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] > 6
    db.close()
    assert not list(upgraded.directory.glob("*.unusable*"))
    # What is wanted: the resource goes on, with its fault.
    (vm1,) = [vm for vm in upgraded.call("status")["vms"] if vm["vm"] == "vm1"]
    assert (vm1["resource"], vm1["fault_on"], vm1["fault"]["id"]) == ("r1", "lockup: any", 2)
    monitor = Monitor(upgraded)
    assert monitor.result() == "fault"
    assert (monitor.answer["fault"]["id"], monitor.answer["fault"]["class"]) == (2, "service")
    # points.json: the dynamic probe is in the guest again.
    assert "opened" in [probe["name"] for probe in vm1["probes"]]
    # pauses.json.
    paused = upgraded.call("state", vm="vm2")["paused"]
    assert (paused["reason"], paused["text"].startswith("watching is paused")) == ("a backup", True)
    # What is new from now on goes on with the numbers of 0.1.0.
    upgraded.call("stop", resource="r1", vm="vm1")
    assert upgraded.call("fault", id=2)["fault"]["ended_by"] == "stop"
