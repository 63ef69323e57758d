# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMs of ``status`` (docs/api.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.faults.pauses import Pauses
from vesper_monitor.guest.session import Session

__all__ = ["vm_status"]


def vm_status(
    sessions: Iterable[Session], instances: Iterable[ResourceActivation], pauses: Pauses
) -> Iterator[dict[str, Any]]:
    """Yield an entry for each watched domain and resource.

    Each when it is asked for: who asks may do something else in between.
    """
    by_domain: dict[tuple[str, int], list[ResourceActivation]] = {}
    for known in instances:
        by_domain.setdefault((known.record.uuid, known.record.domid), []).append(known)
    for session in sessions:
        mine = by_domain.pop((session.domain.uuid, session.domain.domid), None)
        for instance in mine or (None,):
            yield {
                **_describe_watch(session, instance),
                **_describe_resource(instance),
            } | _describe_pause(pauses, session.domain.name)
    for unwatched in by_domain.values():
        for one in unwatched:
            yield {**_describe_unwatched(one), **_describe_resource(one)} | _describe_pause(
                pauses, one.record.vm
            )


def _describe_pause(pauses: Pauses, vm: str) -> dict[str, Any]:
    pause = pauses.get_pause(vm)
    return {"paused": pause.to_json() if pause is not None else None}


def _describe_watch(session: Session, instance: ResourceActivation | None) -> dict[str, Any]:
    domain, hello = session.domain, session.hello
    return {
        "vm": domain.name,
        "domid": domain.domid,
        "uuid": domain.uuid,
        "transport": session.transport.name,
        "state": session.state.value,
        "degraded": session.degraded if instance is None else instance.degraded,
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


def _describe_unwatched(instance: ResourceActivation) -> dict[str, Any]:
    record = instance.record
    return {
        "vm": record.vm,
        "domid": record.domid,
        "uuid": record.uuid,
        "transport": None,
        "state": "closed" if instance.dead_reason is None else "dead",
        "degraded": instance.dead_reason or instance.degraded,
        "standstill": None,
        "release": None,
        "probes": [],
    }


def _describe_resource(instance: ResourceActivation | None) -> dict[str, Any]:
    if instance is None:
        return {
            "resource": None,
            "services": [],
            "fault_on": "",
            "waiting": False,
            "fault": None,
            "deferred": None,
        }
    return {
        "resource": instance.record.resource,
        "services": list(instance.record.services),
        "fault_on": instance.record.fault_on,
        "waiting": instance.waiting,
        "fault": instance.fault.to_json() if instance.fault is not None else None,
        "deferred": instance.deferred,
    }
