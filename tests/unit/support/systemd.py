# SPDX-License-Identifier: GPL-2.0-or-later
"""A real systemd in namespaces of its own, with this tree installed on a copy of this root.

It knows the project's units and no other, so it touches nothing of this machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.support.daemons import PROJECT

__all__ = ["Systemd", "systemd"]

UNITS = ("vesper-ivshmem.service", "vesperd.service")
#: What each unit depends on by default.
TARGETS = ("sysinit", "basic", "shutdown", "multi-user")

#: PID 1 of the namespaces, until it becomes systemd.
BOOT = """\
set -e
mount --make-rprivate /
mount -t tmpfs systemd {place}
cd {place}
mkdir upper work root
mount -t overlay root -o lowerdir=/,upperdir=upper,workdir=work root
mount -t proc proc root/proc
mount --bind root/proc/sys root/proc/sys
mount -o remount,ro,bind root/proc/sys
mount -t sysfs -o ro sys root/sys
mount -t cgroup2 cgroup root/sys/fs/cgroup
mount --rbind /dev root/dev
for d in run tmp var/lib; do mount -t tmpfs $d root/$d; done
make -s -C {project} install DESTDIR={place}/root
mkdir root/run/units
for unit in {units}; do cp root/lib/systemd/system/$unit root/run/units; done
for target in {targets}; do echo '[Unit]' >root/run/units/$target.target; done
printf '[Unit]\\nWants={units}\\n' >root/run/units/multi-user.target
exec env -i container=lxc PATH=/usr/sbin:/usr/bin SYSTEMD_UNIT_PATH=/run/units \\
	chroot root /lib/systemd/systemd --system --unit=multi-user.target --show-status=no \\
	--log-target=null
"""


class Systemd:
    """
    :ivar pid: of its PID 1, as seen here.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", "-r", "-w", "--", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def path(self, name: str) -> Path:
        """Return the path by which a file inside is reached from outside."""
        return Path(f"/proc/{self.pid}/root{name}")

    def show(self, unit: str, what: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", what, unit).stdout.strip()

    def wait_active(self, unit: str) -> int:
        """Return the PID of a service, as seen inside."""
        end = time.monotonic() + 60
        while (state := self.show(unit, "ActiveState")) != "active":
            assert time.monotonic() < end, f"{unit}: {state}"
            time.sleep(0.1)
        return int(self.show(unit, "MainPID"))


@contextmanager
def systemd(place: Path) -> Iterator[Systemd]:
    """:param place: an empty folder."""
    boot = BOOT.format(
        place=place, project=PROJECT, units=" ".join(UNITS), targets=" ".join(TARGETS)
    )
    log = place.with_name("boot.log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["unshare", "-m", "-p", "-f", "-C", "-u", "-i", "-n", "--kill-child=KILL",
             "sh", "-c", boot],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        yield Systemd(_first(process, log))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)


def _first(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until PID 1 has become systemd, and return its PID."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        for pid in children.read_text().split():
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "systemd":
                return int(pid)
        time.sleep(0.05)
