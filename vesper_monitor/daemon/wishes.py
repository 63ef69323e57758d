# SPDX-License-Identifier: GPL-2.0-or-later
"""What a resource wishes of its watch, read from a request of its agent.

A wrong value never fails the request: a mistake in what is watched must not
cost the VM.  What was in force stays (after a start: the defaults), and what
is wrong is returned as a text, with which monitors are degraded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from vesper_monitor.daemon.config import DEFAULT_PROBES
from vesper_monitor.daemon.request import (
    MAX_TEXT_CHARS,
    is_utf8,
    names_field,
    number_field,
    text_field,
)
from vesper_monitor.daemon.server import RequestError
from vesper_monitor.guest.health.hang_detector import MIN_TIMEOUT_S
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.journal.records import ActivationRecord
from vesper_monitor.rules.language import RuleError
from vesper_monitor.rules.rule_set import RuleSet

__all__ = ["MAX_TIMEOUT_S", "Wishes", "domain_of", "read_wishes", "wishes_of"]

#: The longest time that a request may give.
MAX_TIMEOUT_S = 86_400.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Wishes:
    probes: tuple[str, ...] = DEFAULT_PROBES
    services: tuple[str, ...] = ()
    hang_timeout: float | None = None
    pause_timeout: float | None = None
    fault_on: str = ""
    boot_timeout: float | None = None


def domain_of(record: ActivationRecord) -> Domain:
    """Return the domain of a resource activation."""
    return Domain(record.vm, record.domid, record.uuid)


def wishes_of(record: ActivationRecord) -> Wishes:
    """Return what is in force."""
    return Wishes(
        record.probes, record.services, record.hang_timeout, record.pause_timeout,
        record.fault_on, record.boot_timeout,
    )  # fmt: skip


def read_wishes(request: dict[str, Any], in_force: Wishes) -> tuple[Wishes, str | None]:
    """Return what a request wishes, and which of it is wrong.

    :param in_force: what holds where the request says nothing, or something wrong.
    :returns: the second: a sentence, the agent's own doubt if it has one; None if
        nothing is wrong.
    """
    wrong: list[str] = []

    def read(key: str, default: _T, get: Callable[[], _T]) -> _T:
        value = request.get(key)
        if value is None or value == default:  # each monitor says it again
            return default
        try:
            return get()
        except RequestError as error:
            wrong.append(str(error))
        except RuleError as error:
            wrong.append(f"parameter {key}: {error}")
        return default

    def read_seconds(key: str, default: float | None) -> float | None:
        return read(key, default, lambda: number_field(request, key, 0.0, MAX_TIMEOUT_S))

    found = Wishes(
        probes=read("probes", in_force.probes, lambda: names_field(request, "probes", ())),
        services=read("services", in_force.services, lambda: names_field(request, "services", ())),
        hang_timeout=read("hang_timeout", in_force.hang_timeout, lambda: _hang_timeout(request)),
        pause_timeout=read_seconds("pause_timeout", in_force.pause_timeout),
        fault_on=read("fault_on", in_force.fault_on, lambda: _fault_on(request)),
        boot_timeout=read_seconds("boot_timeout", in_force.boot_timeout),
    )
    if request.get("doubt"):
        return found, _doubt(request["doubt"])
    if not wrong:
        return found, None
    return found, f"{text_field(request, 'vm')}: {'; '.join(wrong)}; what was in force stays"


def _doubt(doubt: object) -> str:
    """The agent's own; it quotes a parameter, which may be of any length."""
    return text_field(
        {"doubt": doubt[:MAX_TEXT_CHARS] if isinstance(doubt, str) else doubt}, "doubt"
    )


def _hang_timeout(request: dict[str, Any]) -> float:
    """s; 0: not watched."""
    value = number_field(request, "hang_timeout", 0.0, MAX_TIMEOUT_S)
    if 0 < value < MIN_TIMEOUT_S:
        raise RequestError("bad-request", f"'hang_timeout' must be 0 or at least {MIN_TIMEOUT_S:g}")
    return value


def _fault_on(request: dict[str, Any]) -> str:
    """:raises RuleError: they are wrong."""
    wanted = request["fault_on"]
    if not isinstance(wanted, str) or not is_utf8(wanted):
        raise RequestError("bad-request", "'fault_on' must be a text in UTF-8")
    RuleSet(wanted)
    return wanted
