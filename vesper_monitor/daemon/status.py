# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMs of ``status`` (docs/api.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vesper_monitor.daemon.sessions import SessionManager
from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.pauses import Pauses
from vesper_monitor.guest.session import Session

__all__ = ["describe_vms"]


def describe_vms(
    sessions: SessionManager, activations: Iterable[ResourceActivation], pauses: Pauses
) -> Iterator[dict[str, Any]]:
    """Yield an entry for each watched domain and resource.

    Each is made when it is asked for: the caller may do something else in between.
    """
    by_domain: dict[tuple[str, int], list[ResourceActivation]] = {}
    for known in activations:
        by_domain.setdefault((known.record.uuid, known.record.domid), []).append(known)
    for session in sessions.list_sessions():
        domain = session.domain
        for activation in by_domain.pop(domain.key, None) or (None,):
            if activation is None:
                degraded = sessions.state_of(domain, session.transport.name).lacking
            else:
                degraded = activation.degraded
            yield {
                **_describe_watch(session, degraded),
                **_describe_resource(activation),
            } | _describe_pause(pauses, domain.name)
    for unwatched in by_domain.values():
        for one in unwatched:
            yield {**_describe_unwatched(one), **_describe_resource(one)} | _describe_pause(
                pauses, one.record.vm
            )


def _describe_pause(pauses: Pauses, vm: str) -> dict[str, Any]:
    pause = pauses.get_pause(vm)
    return {"paused": pause.to_json() if pause is not None else None}


def _describe_watch(session: Session, degraded: str | None) -> dict[str, Any]:
    domain, hello = session.domain, session.hello
    return {
        "vm": domain.name,
        "domid": domain.domid,
        "uuid": domain.uuid,
        "transport": session.transport.name,
        "state": session.state.value,
        "degraded": degraded,
        "standstill": _describe_standstill(session),
        "release": hello.release if hello is not None else None,
        "probes": [
            {
                "name": probe.name,
                "state": probe.state.value,
                "cpus": probe.cpus,
                "records": probe.records,
                "lost": probe.lost,
                "error": probe.error,
                "params": probe.params,
            }
            for probe in session.probes.values()
        ],
    }


def _describe_standstill(session: Session) -> dict[str, Any] | None:
    found = session.standstill
    if found is None:
        return None
    text, since = found
    return {"text": text, "since": since, "paused": session.is_paused}


def _describe_unwatched(activation: ResourceActivation) -> dict[str, Any]:
    record = activation.record
    return {
        "vm": record.vm,
        "domid": record.domid,
        "uuid": record.uuid,
        "transport": None,
        "state": "closed" if activation.dead_reason is None else "dead",
        "degraded": activation.dead_reason or activation.degraded,
        "standstill": None,
        "release": None,
        "probes": [],
    }


def _describe_resource(activation: ResourceActivation | None) -> dict[str, Any]:
    if activation is None:
        return {
            "resource": None,
            "services": [],
            "fault_on": "",
            "waiting": False,
            "fault": None,
            "deferred": None,
        }
    return {
        "resource": activation.record.resource,
        "services": list(activation.record.wishes.services),
        "fault_on": activation.record.wishes.fault_on,
        "waiting": activation.waiting,
        "fault": activation.fault.to_json() if activation.fault is not None else None,
        "deferred": activation.deferred,
    }
