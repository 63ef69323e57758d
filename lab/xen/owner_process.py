# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that owns a Xen lab, brought up from the command line.

The lab dies with it. It ends on SIGTERM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from lab.host import ChannelError, LabError
from lab.images.store import BuildError
from lab.xen.lab import STATE, XenLab

__all__ = ["DIRECTORY", "bring_lab_up", "take_lab_down"]

#: State of the lab of the command line.
DIRECTORY = STATE / "xen"
LOG = STATE / "xen.log"


def _find_owner_pid() -> int | None:
    """Return the PID of the owner process; None: it does not run."""
    try:
        pid = int((STATE / "xen.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"lab.xen.owner_process" in command else None


def bring_lab_up(hosts: int, timeout: float) -> None:
    """Start the owner process and wait until its lab is up; show its progress.

    :raises LabError: the lab is up already, or it does not come up.
    """
    if _find_owner_pid():
        raise LabError("the lab is up already; 'python3 -m lab xen down' takes it down")
    STATE.mkdir(parents=True, exist_ok=True)
    # What an owner process left that was killed; its machines died with it.
    subprocess.run(["rm", "-rf", str(DIRECTORY)], check=True)
    with LOG.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.xen.owner_process", str(hosts)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )
    (STATE / "xen.pid").write_text(f"{process.pid}\n")
    deadline = time.monotonic() + timeout
    try:
        with LOG.open() as progress:
            while not (DIRECTORY / "ready").exists():
                sys.stderr.write(progress.read())
                if process.poll() is not None:
                    raise LabError(f"the lab does not come up:\n{progress.read()}")
                if time.monotonic() > deadline:
                    raise LabError(f"the lab is not up after {timeout:.0f} s; see {LOG}")
                time.sleep(0.1)
            sys.stderr.write(progress.read())
    except BaseException:
        take_lab_down()
        raise


def take_lab_down() -> bool:
    """End the owner process, and with it the lab; return False if it was not up."""
    pid = _find_owner_pid()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while _find_owner_pid():
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    return True


def _exit_on_signal(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _own_lab_until_sigterm(hosts: int) -> None:
    signal.signal(signal.SIGTERM, _exit_on_signal)
    if hosts == 1:
        lab = XenLab.boot_lab(1, cluster=False, state=DIRECTORY)
        with lab:
            lab.install_project()
            _wait_for_signal()
    else:
        with XenLab.resume_lab(state=DIRECTORY):
            _wait_for_signal()


def _wait_for_signal() -> None:
    (DIRECTORY / "ready").touch()
    while True:
        signal.pause()


if __name__ == "__main__":
    try:
        _own_lab_until_sigterm(int(sys.argv[1]))
    except (LabError, ChannelError, BuildError) as error:
        sys.exit(str(error))
