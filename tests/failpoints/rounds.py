# SPDX-License-Identifier: GPL-2.0-or-later
"""All points of vesperd's, or of the agent's, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.failpoints.cluster import Cluster
from tests.failpoints.host import Host
from tests.unit.support.daemons import DaemonProcess

__all__ = ["Outcome", "of_agent", "of_locked_vesperd", "of_vesperd", "text"]

_T = TypeVar("_T")

#: A line of progress after so many points.
PROGRESS = 50


@dataclass
class Outcome:
    """What became of one part."""

    part: str
    points: int = 0  #: that there are
    tried: int = 0
    kills: int = 0  #: the others were not reached this time
    wrong: list[str] = field(default_factory=list)


def text(outcome: Outcome) -> str:
    """Say it in a line."""
    return (
        f"{outcome.part}: {outcome.points} points, ended at {outcome.kills} of {outcome.tried}: "
        f"{len(outcome.wrong)} faults lost or doubled, or actions failed"
    )


def of_vesperd(directory: Path, most: int, tell: Callable[[str], None]) -> Outcome:
    """End vesperd at each await, callback, rename and commit of a fault's life.

    :param most: points, spread evenly; 0: all.
    """
    return _of_vesperd(Outcome("vesperd"), directory, most, tell, locked=False)


def of_locked_vesperd(directory: Path, most: int, tell: Callable[[str], None]) -> Outcome:
    """Like :func:`of_vesperd`, with a journal that is locked until the fault is reported."""
    return _of_vesperd(
        Outcome("vesperd, journal locked"), directory, most, tell, locked=True
    )


def _of_vesperd(
    found: Outcome, directory: Path, most: int, tell: Callable[[str], None], *, locked: bool
) -> Outcome:
    host = Host(directory)
    host.begin()
    try:
        with host.order.noting() as points:
            host.round("without a kill", locked=locked)
        host.check("without a kill")
        found.points = len(points)
        for point in _spread(points, most):
            with host.order.killing(point):
                host.round(point, locked=locked)
            host.check(point, locked=locked)
            found.tried += 1
            if found.tried % PROGRESS == 0:
                tell(f"{found.tried} of {found.points}: {len(host.wrong)} wrong")
    finally:
        host.end()
    found.kills, found.wrong = host.kills, host.wrong
    return found


def of_agent(directory: Path, most: int, tell: Callable[[str], None]) -> Outcome:
    """End the agent before each thing that it does to a file, a process or vesperd."""
    (directory / "domains").mkdir()
    daemon = DaemonProcess(directory, "activate_timeout = 0.5\nmonitor_grace = 600.0")
    daemon.start()
    found = Outcome("agent")
    try:
        cluster = Cluster(directory, daemon)
        noted = cluster.note()
        points = [(action, point) for action, of_one in noted.items() for point in of_one]
        found.points = len(points)
        for action, point in _spread(points, most):
            cluster.round(action, point)
            found.tried += 1
            if found.tried % PROGRESS == 0:
                tell(f"{found.tried} of {found.points}: {len(cluster.wrong)} wrong")
        found.kills, found.wrong = cluster.kills, cluster.wrong
    finally:
        daemon.stop()
    return found


def _spread(points: Sequence[_T], most: int) -> list[_T]:
    if not most or len(points) <= most:
        return list(points)
    return [points[number * len(points) // most] for number in range(most)]
