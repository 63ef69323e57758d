# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest of Xen that hangs, and what only looks so; hang_timeout is the default."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.guest import Guest
from lab.xen import XenHost, XenLab
from tests.support.vm1 import wait_collecting
from tests.xen.support.vm1 import clean, create_guest
from vesper_monitor.daemon.config import Config

HERE = Path(__file__).parent
TIMEOUT = Config().hang_timeout
BUSY = "for i in 1 2 3 4; do while :; do :; done >/dev/null 2>&1 & done"


def hangs(host: XenHost) -> list[dict[str, Any]]:
    output = host.run_command("vesper events --json", timeout=60, check=True).output
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    rows = [row.get("event", row) if isinstance(row.get("event"), dict) else row for row in rows]
    return [row["fields"] for row in rows if row["event"] == "hang"]


@pytest.fixture(scope="module")
def host(lab: XenLab) -> Iterator[XenHost]:
    """host-a with an activated vm1."""
    clean(lab)
    create_guest(lab)
    lab.a.run_command("vesper activate vm1", timeout=60, check=True)
    wait_collecting(lab.a)
    yield lab.a
    clean(lab)


def test_what_only_looks_like_a_hang_is_none(host: XenHost) -> None:
    """Paused; busy on a host that is; on a host that stands still, then stutters."""
    assert TIMEOUT == 5.0
    before = hangs(host)
    guest = Guest(host)
    host.run_command("xl pause vm1", timeout=60, check=True)
    time.sleep(2 * TIMEOUT)
    host.run_command("xl unpause vm1", timeout=60, check=True)

    guest.run_command(f"{BUSY}; echo $(jobs -p) >/tmp/busy")
    host.run_command(f"{BUSY}; echo $(jobs -p) >/tmp/busy", check=True)
    time.sleep(3 * TIMEOUT)

    machine = host._process
    assert machine is not None
    for stands, runs in [(2 * TIMEOUT, 1.0), *[(0.9, 0.1)] * round(2 * TIMEOUT)]:
        machine.send_signal(signal.SIGSTOP)
        time.sleep(stands)
        machine.send_signal(signal.SIGCONT)
        time.sleep(runs)
    time.sleep(TIMEOUT)
    for channel in (host, guest):
        channel.run_command("kill $(cat /tmp/busy)", timeout=60)
    assert hangs(host) == before


def test_a_hang_is_found(host: XenHost, tmp_path: Path) -> None:
    """A real-time task takes the guest's only CPU for itself."""
    subprocess.run(
        ["gcc", "-static", "-nostdlib", "-Os", "-s", "-fcf-protection=none",
         "-fno-asynchronous-unwind-tables", "-Wl,-n,--build-id=none,-z,norelro",
         "-o", tmp_path / "hog", HERE / "support/hog.c"],
        check=True, timeout=60,
    )  # fmt: skip
    guest = Guest(host)
    guest.put_file("/hog", (tmp_path / "hog").read_bytes())
    before = hangs(host)
    started = guest.run_command(
        "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; "
        "(sleep 1; exec /hog) >/dev/null 2>&1 </dev/null &"
    )
    assert not started.output
    deadline = time.monotonic() + 90
    while not (found := hangs(host)[len(before) :]):
        assert time.monotonic() < deadline, "no hang"
        time.sleep(0.5)
    (hang,) = found
    assert hang["depth"] == "scheduler"
    assert hang["silent_s"] >= TIMEOUT - 1.3
    assert hang["ran_s"] >= TIMEOUT * 0.35
