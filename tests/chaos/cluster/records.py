# SPDX-License-Identifier: GPL-2.0-or-later
"""What has happened, by the records of all nodes: no one's word but what each has written.

Which instances there were and how they ended: the stand-in for ``xl``, and
the power switch.  Faults: vesperd's journals.  Why nodes were fenced, and
what Pacemaker counts: its own.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lab.cluster import ClusterLab, Node
from lab.cluster.power import PowerCut

__all__ = [
    "Fault",
    "Instance",
    "Log",
    "counters",
    "faults",
    "fencing_reasons",
    "instances",
    "joining",
    "stoppers",
]


@dataclass
class Instance:
    """One life of a VM."""

    vm: str
    node: str
    uuid: str
    began: float  #: s, CLOCK_REALTIME
    ended: float | None = None
    #: what its agent has sent it, or ``power``: it went with its node
    by: str = ""
    ends: int = 0  #: how often an agent has ended it

    def __str__(self) -> str:
        return f"{self.vm} on {self.node}"


@dataclass(frozen=True)
class Fault:
    """As it is in a journal."""

    vm: str
    node: str
    uuid: str
    reason: str
    seen: float
    told: float | None
    ended_by: str | None


def instances(lab: ClusterLab) -> list[Instance]:
    """All that there were, the oldest first."""
    assert lab.power is not None
    found = [i for node in lab.nodes for i in _of_node(node, lab.power.cuts)]
    return sorted(found, key=lambda instance: instance.began)


def _of_node(node: Node, cuts: Iterable[PowerCut]) -> Iterator[Instance]:
    by_uuid: dict[str, Instance] = {}
    try:
        lines = (node.directory / "log/standin/history").read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        entry = json.loads(line)
        uuid = entry["uuid"]
        if entry["what"] == "create":
            by_uuid[uuid] = Instance(entry["name"], node.name, uuid, entry["at"])
        elif uuid in by_uuid:
            instance = by_uuid[uuid]
            instance.ends += 1
            if instance.ended is None:
                instance.ended, instance.by = entry["at"], entry["what"]
    for instance in by_uuid.values():
        for cut in cuts:
            if (
                cut.node == node.name
                and cut.at > instance.began
                and (instance.ended is None or cut.at < instance.ended)
            ):
                instance.ended, instance.by = cut.at, "power"
                break
        yield instance


def faults(lab: ClusterLab, since: float) -> list[Fault]:
    """In all journals, those seen since then (s, CLOCK_REALTIME)."""
    found = []
    for node in lab.nodes:
        path = node.directory / "state/journal.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as db:
            rows = db.execute(
                "SELECT vm, uuid, reason, seen, told, ended_by FROM faults WHERE seen >= ?",
                (since,),
            ).fetchall()
        found += [Fault(r[0], node.name, *r[1:]) for r in rows]
    return found


class Log:
    """What has come to a log file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0

    def read(self) -> str:
        """From the last look to now."""
        if not self._path.exists():
            return ""
        with self._path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
        self._at += len(text)
        return text.decode(errors="replace")


#: Of the scheduler, which says why.
_FENCED = re.compile(r"warning: (?:Cluster|Remote|Guest)? ?[Nn]ode (\S+) will be fenced: (.*)")


def fencing_reasons(text: str) -> list[str]:
    """:param text: of Pacemaker's log."""
    return sorted({f"{match[1]}: {match[2]}" for match in _FENCED.finditer(text)})


def joining(text: str) -> bool:
    """Whether a DC began to gather its nodes; what fails until it has is not counted.

    :param text: of Pacemaker's log.
    """
    return " -> S_INTEGRATION " in text


#: Node, process and VM of what two of Pacemaker's daemons have to say.
_COUNTED = re.compile(r"(\S+ pacemaker-controld +\[\d+\]) .*Updating failcount for (\S+) on ")
_STOPS = re.compile(r"(\S+ pacemaker-execd +\[\d+\]) .*executing - rsc:(\S+) action:stop ")


def counters(text: str) -> dict[str, list[str]]:
    """By VM: the controllers that have counted a failure of it.

    :param text: of Pacemaker's log.
    """
    return _by_vm(_COUNTED, text)


def stoppers(text: str) -> dict[str, list[str]]:
    """By VM: the executors that have begun to stop it."""
    return _by_vm(_STOPS, text)


def _by_vm(pattern: re.Pattern[str], text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for match in pattern.finditer(text):
        found.setdefault(match[2], []).append(" ".join(match[1].split()))
    return found
