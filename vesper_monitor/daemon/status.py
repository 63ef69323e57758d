# SPDX-License-Identifier: GPL-2.0-or-later
"""The VMs of ``status`` (docs/api.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vesper_monitor.faults.instance import Instance
from vesper_monitor.faults.pauses import Pauses
from vesper_monitor.guest.session import Session

__all__ = ["vm_status"]


def vm_status(
    sessions: Iterable[Session], instances: Iterable[Instance], pauses: Pauses
) -> list[dict[str, Any]]:
    """One entry per watched domain and resource, by name."""
    by_domain: dict[tuple[str, int], list[Instance]] = {}
    for instance in instances:
        key = instance.record.uuid, instance.record.domid
        by_domain.setdefault(key, []).append(instance)
    rows = []
    for session in sessions:
        mine = by_domain.pop((session.domain.uuid, session.domain.domid), None)
        rows += [{**_watch(session, i), **_resource(i)} for i in mine or (None,)]
    for unwatched in by_domain.values():
        rows += [{**_unwatched(i), **_resource(i)} for i in unwatched]
    for row in rows:
        pause = pauses.get(row["vm"])
        row["paused"] = pause.to_json() if pause is not None else None
    return sorted(rows, key=lambda row: (row["vm"], row["domid"]))


def _watch(session: Session, instance: Instance | None) -> dict[str, Any]:
    domain, hello = session.domain, session.hello
    return {
        "vm": domain.name,
        "domid": domain.domid,
        "uuid": domain.uuid,
        "transport": session.transport.name,
        "state": session.state.value,
        "degraded": session.degraded if instance is None else instance.degraded,
        "standstill": _standstill(session),
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


def _standstill(session: Session) -> dict[str, Any] | None:
    found = session.standstill
    if found is None:
        return None
    text, since = found
    return {"text": text, "since": since, "paused": session.is_paused}


def _unwatched(instance: Instance) -> dict[str, Any]:
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


def _resource(instance: Instance | None) -> dict[str, Any]:
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
