# SPDX-License-Identifier: GPL-2.0-or-later
"""The registry of stand-in domains: a directory for each, locked while it runs."""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from vesper_monitor.hypervisor.domain_state import DomainState

__all__ = ["DomainDirectory", "DomainRecord", "base_directory", "list_domain_names"]


@dataclass(frozen=True)
class DomainRecord:
    """The content of a domain's ``domain.json``."""

    name: str
    domid: int
    uuid: str
    pid: int
    state: str = DomainState.RUNNING.value
    resets: int = 0  #: that the hypervisor reports


def base_directory() -> Path:
    return Path(os.environ.get("VESPER_STANDIN_DIR", "/run/vesper-standin"))


def list_domain_names() -> list[str]:
    return sorted(path.parent.name for path in base_directory().glob("*/domain.json"))


class DomainDirectory:
    """The directory of one domain.

    :param directory: of all domains; of another host, if it is not this one's.
    """

    def __init__(self, name: str, directory: Path | None = None) -> None:
        self._base = directory or base_directory()
        self.directory = self._base / name
        self.name = name
        self.memory = self.directory / "memory"
        self.link = self.directory / "link.sock"
        self.control = self.directory / "control.sock"
        self.active = self.directory / "active"
        self.log = self.directory / "log"
        self._cpu = self.directory / "cpu"
        self._record = self.directory / "domain.json"
        self._lock = self.directory / "lock"
        self._held: int | None = None  #: the domain's record, locked as long as it lives

    def claim_domain(self, identity: str | None = None) -> tuple[DomainRecord, int]:
        """Make this process the domain.

        :param identity: its UUID; None: a new one.
        :returns: the record, and a descriptor that must stay open.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in (self.link, self.control, self.active, self._cpu, self._record):
            path.unlink(missing_ok=True)
        domid = _take_next_domid(self._base)
        record = DomainRecord(self.name, domid, identity or str(uuid.uuid4()), os.getpid())
        self.write_record(record)
        return record, lock

    def write_record(self, record: DomainRecord) -> None:
        draft = self._record.with_suffix(".new")
        held = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        os.write(held, json.dumps(asdict(record)).encode())
        draft.replace(self._record)
        self._close_record()
        self._held = held

    def _close_record(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def release_domain(self, lock: int) -> None:
        """Give the domain up; the process goes on in another directory."""
        for path in (self.link, self.control, self.active, self._record):
            path.unlink(missing_ok=True)
        self._close_record()
        os.close(lock)

    def use_cpu(self, what: str) -> None:
        """Make the domain spin, starve (want a CPU and get none), or sleep."""
        ran, _ = self.read_cpu_state()
        draft = self._cpu.with_suffix(".new")
        draft.write_text(json.dumps([ran, time.monotonic(), what]))
        draft.replace(self._cpu)

    def read_cpu_state(self) -> tuple[float, str]:
        """CPU time (s) of each CPU, and what it does now.

        Without an earlier use_cpu() the domain starves: on a busy machine the process that
        stands in for it may really starve.
        """
        try:
            ran, since, what = json.loads(self._cpu.read_text())
        except FileNotFoundError:
            return 0.0, "starve"
        return ran + (time.monotonic() - since if what == "spin" else 0.0), what

    def read_record(self) -> DomainRecord | None:
        """Return the domain; None if it does not run.

        A running domain has its record locked.  Its process is not looked up: it may be in
        another PID namespace.
        """
        while True:
            try:
                record = os.open(self._record, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                fcntl.flock(record, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(record), os.stat(self._record)):
                    return None  # not locked: the domain has ended
            except BlockingIOError:
                return DomainRecord(**json.loads(os.pread(record, 1 << 16, 0)))
            except FileNotFoundError:
                return None
            finally:
                os.close(record)
            # Another record has taken its place meanwhile.


def _take_next_domid(directory: Path) -> int:
    counter = os.open(directory / "next-domid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(counter, fcntl.LOCK_EX)
        domid = int(os.pread(counter, 16, 0) or b"1")
        os.pwrite(counter, str(domid + 1).encode(), 0)
        return domid
    finally:
        os.close(counter)
