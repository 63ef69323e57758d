# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose domain is it, and does it run? Every situation that an agent can meet.

Two laws:

- *It runs*: no monitor says "not running", no stop says "stopped" while it
  runs, no start makes a second one, and no other resource's domain is touched.
- *It is dead*: no monitor says "fine" twice.

The resource r1 runs vm1.  The domain ``other`` is resource r2's.

Apart from that: what a live migration brings to a node whose own file says
something else.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.unit.ocf.support.virtual_host import VirtualHost, VirtualLibvirtHost, VirtualXenHost

SUCCESS, NOT_RUNNING = 0, 7

CONFIGURATIONS = ("as it was", "gone", "empty", "cut off", "renamed", "names another VM")
TOOLSTACKS = ("lists it", "does not list it", "cut", "hangs", "german")
VESPERDS = ("alive", "dead", "away", "stale", "knows another domain")
REMEMBERED = ("yes", "no", "another")
ACTIONS = ("probe", "monitor", "stop", "start", "migrate")


class Situation:
    """One line of the table."""

    def __init__(self, host: VirtualHost, line: tuple[str, ...], runs: bool) -> None:
        self.host = host
        self.configuration, self.toolstack, self.vesperd, self.remembered, self.action = line
        self.runs = runs
        host.running = {"other", "vm1"} if runs else {"other"}
        host.mood = self.toolstack if self.toolstack in ("cut", "hangs", "german") else "fine"
        host.vesperd = self._answer
        host.remember("r2", "other")
        if self.remembered != "no":
            host.remember("r1", "vm1" if self.remembered == "yes" else "vm0")
        self._write_config()

    def _write_config(self) -> None:
        names = {"renamed": "vm1-new", "names another VM": "other"}
        self.host.write_config(names.get(self.configuration, "vm1"))
        if self.configuration == "gone":
            self.host.config.unlink()
        elif self.configuration == "empty":
            self.host.config.write_text("")
        elif self.configuration == "cut off":
            text = self.host.config.read_text()
            self.host.config.write_text(text[: text.index("vm1") + 2])

    @property
    def knowable(self) -> bool:
        """Whether anybody who can be asked knows that r1 runs vm1."""
        return (
            self.configuration == "as it was"
            or self.remembered == "yes"
            # With another one remembered, that one's end is what is known.
            or (self.remembered == "no" and self.vesperd in ("alive", "stale"))
        )

    def perform(self) -> tuple[int, str]:
        if self.action in ("probe", "monitor"):
            return self.host.call("monitor", interval=1.0 if self.action == "monitor" else 0.0)
        return self.host.call("migrate_to" if self.action == "migrate" else self.action)

    def _answer(self, asked: dict[str, Any]) -> Any:
        """What vesperd says; a text: an error; None: nothing."""
        if self.vesperd in ("dead", "away"):
            return "dead" if self.vesperd == "dead" else None
        mine = "vm0" if self.vesperd == "knows another domain" else "vm1"
        hears = self.vesperd == "alive" and "vm1" in self.host.running
        number, uuid = self.host.ident(mine), self.host.ident(mine)
        match asked["op"]:
            case "life" if "resource" in asked:
                return {"vm": mine, "domid": number, "uuid": uuid, "age": None}
            case "life":
                known = asked["vm"] == "vm1" and asked["domain"] == self.host.ident("vm1")
                return {"age": 1.0 if hears and known else None}
            case "state" if self.vesperd == "stale":
                return "no transport"
            case "state":
                domain = {"name": asked["vm"], "domid": 1, "uuid": "u", "state": "running"}
                return {"domain": domain if asked["vm"] in self.host.running else None}
            case "wait" if self.vesperd == "stale":
                return {"result": "degraded", "reason": "nobody watches it"}
            case "wait" if asked["vm"] in self.host.running:
                return {"result": "fine"}
            case "wait":
                return {"result": "dead", "reason": "it does not run", "state": "gone"}
        return {}


def lines(toolstacks: tuple[str, ...]) -> list[tuple[str, ...]]:
    return list(itertools.product(CONFIGURATIONS, toolstacks, VESPERDS, REMEMBERED, ACTIONS))


@pytest.fixture(params=[VirtualXenHost, VirtualLibvirtHost], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[VirtualHost]:
    found: type[VirtualHost] = request.param
    return found


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_each_action_on_a_domain_that_runs(
    kind: type[VirtualHost], tmp_path: Path, configuration: str
) -> None:
    # A toolstack that does not list what runs is one that errs for a moment.
    broken = []
    for number, line in enumerate(lines(TOOLSTACKS)):
        if line[0] != configuration:
            continue
        situation = place(kind, tmp_path / str(number), line, runs=True)
        broken += situation(check_that_runs)
    assert broken == []


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_each_action_on_a_domain_that_is_dead(
    kind: type[VirtualHost], tmp_path: Path, configuration: str
) -> None:
    broken = []
    for number, line in enumerate(lines(("does not list it", "cut", "hangs", "german"))):
        if line[0] != configuration:
            continue
        situation = place(kind, tmp_path / str(number), line, runs=False)
        broken += situation(check_that_is_dead)
    assert broken == []


def place(kind: type[VirtualHost], folder: Path, line: tuple[str, ...], *, runs: bool) -> Any:
    """A situation, as a function that has it checked."""

    def check(laws: Any) -> list[str]:
        folder.mkdir()
        with pytest.MonkeyPatch.context() as monkeypatch:
            situation = Situation(kind(folder, monkeypatch), line, runs)
            if runs and situation.toolstack == "does not list it":
                hide_from_list(situation.host, monkeypatch)
            found: list[str] = laws(situation)
        return [f"{' / '.join(line)}: {wrong}" for wrong in found]

    return check


def hide_from_list(host: VirtualHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toolstack's lists leave vm1 out."""
    real = host._run

    def run(command: list[str]) -> tuple[int, str]:
        if not {"list", "domstats"} & set(command):
            return real(command)
        host.running.discard("vm1")
        try:
            return real(command)
        finally:
            host.running.add("vm1")

    monkeypatch.setattr(host, "_run", run)


def check_that_runs(situation: Situation) -> list[str]:
    host = situation.host
    hidden = situation.toolstack == "does not list it"
    code, reason = situation.perform()
    wrong = [f"{command} of {name}" for command, name in host.done if name == "other"]
    if hidden and not (situation.vesperd == "alive" and situation.remembered == "yes"):
        return wrong  # nobody can know better than the toolstack
    if hidden and situation.remembered == "yes" and situation.vesperd != "alive":
        return wrong
    if not situation.knowable:
        return wrong
    if situation.action in ("probe", "monitor") and code == NOT_RUNNING:
        wrong.append(f"not running: {reason}")
    if situation.action == "stop" and code == SUCCESS and "vm1" in host.running:
        wrong.append("stopped, and runs")
    if situation.action == "start" and ("create" in [command for command, _ in host.done]):
        wrong.append("started a second time")
    if situation.action in ("probe", "monitor", "start") and host.done:
        wrong.append(f"touched: {host.done}")
    return wrong


def check_that_is_dead(situation: Situation) -> list[str]:
    host = situation.host
    codes = [situation.perform()[0]]
    if situation.action in ("probe", "monitor"):
        codes.append(situation.perform()[0])
    wrong = [f"{command} of {name}" for command, name in host.done if name == "other"]
    # A probe that is told of another VM takes that one for its own: so it is configured.
    takes_over = situation.configuration == "names another VM" and situation.action == "probe"
    if codes == [SUCCESS, SUCCESS] and not takes_over:
        wrong.append("fine, twice")
    certain = situation.toolstack == "does not list it"
    foreign = situation.configuration == "names another VM" and situation.remembered == "no"
    if situation.action == "stop" and certain and not foreign and codes != [SUCCESS]:
        wrong.append(f"a stop of what is gone: {codes}")
    return wrong


#: What may be there of r1 at the target of a migration, beside its file.
ARRIVALS = ("has arrived", "arrives later", "is announced, and does not come")
ARRIVAL_ACTIONS = ("migrate_from", "start", "stop", "probe")


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_each_action_on_a_domain_that_arrives(
    kind: type[VirtualHost], tmp_path: Path, configuration: str
) -> None:
    broken = []
    lines = itertools.product(ARRIVALS, VESPERDS, ARRIVAL_ACTIONS)
    for number, (arrival, vesperd, action) in enumerate(lines):
        folder = tmp_path / str(number)
        folder.mkdir()
        line = configuration, "lists it", vesperd, "no", action
        with pytest.MonkeyPatch.context() as monkeypatch:
            situation = Situation(kind(folder, monkeypatch), line, arrival == "has arrived")
            situation.host.send("vm1")
            if vesperd == "alive":  # which has not been told of a start here
                situation.host.vesperd = lambda _: {"age": None}
            if configuration == "renamed" and arrival != "is announced, and does not come":
                situation.host.running.add("vm1-new")  # by hand, and nobody's
            if arrival == "arrives later":
                arrive_later(situation.host, monkeypatch)
            wrong = check_what_arrives(situation, action, arrival)
        broken += [f"{configuration} / {vesperd} / {action}, it {arrival}: {w}" for w in wrong]
    assert broken == []


def arrive_later(host: VirtualHost, monkeypatch: pytest.MonkeyPatch) -> None:
    real, at = host._run, host.clock.now + 4.0

    def run(command: list[str]) -> tuple[int, str]:
        if host.clock.now >= at:
            host.running.add("vm1")
        return real(command)

    monkeypatch.setattr(host, "_run", run)


def check_what_arrives(situation: Situation, action: str, arrival: str) -> list[str]:
    host = situation.host
    code, reason = host.call("monitor" if action == "probe" else action)
    wrong = [f"{command} of {name}" for command, name in host.done if name == "other"]
    if arrival == "is announced, and does not come":
        if action in ("migrate_from", "probe") and code == SUCCESS:
            wrong.append("it does not run")
        return [] if situation.configuration == "names another VM" else wrong
    comes = arrival == "has arrived"
    if comes and any(name == "vm1-new" for _, name in host.done):
        wrong.append(f"nobody's: {host.done}")
    if action == "migrate_from" and code != SUCCESS:
        wrong.append(f"has not arrived: {reason}")
    if action == "start" and comes and ("create" in [command for command, _ in host.done]):
        wrong.append(f"a second copy: {host.done}")
    if action == "stop" and comes and code == SUCCESS and "vm1" in host.running:
        wrong.append("stopped, and runs")
    if action == "probe" and comes and code == NOT_RUNNING:
        wrong.append(f"not running: {reason}")
    if action == "migrate_from" and not wrong:
        record = (host.folder / "vesper-r1.domain").read_text()
        if record.split("\n")[0] != "vm1":
            wrong.append(f"not remembered: {record!r}")
    return wrong
