# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of ``vesper`` that only read: status, events, faults, probe list, relay cat."""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

from vesper_monitor.client import Client, DaemonError
from vesper_monitor.command.table import format_columns, format_note, format_paragraph
from vesper_monitor.guest.control.images import ImageStore
from vesper_monitor.knowledge import probes

__all__ = [
    "copy_records",
    "explain_probe",
    "format_time",
    "list_probes",
    "print_json",
    "show_events",
    "show_fault",
    "show_faults",
    "show_status",
]

#: Lines of events or faults that fit on a screen.
SCREENFUL_LINES = 20


def print_json(value: object) -> None:
    """Print an answer for programs."""
    print(format_json(value, indent=2))


def format_json(value: object, indent: int | None = None) -> str:
    """Return JSON that standard output can show: escaped if its encoding is not UTF-8."""
    plain = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    return json.dumps(value, indent=indent, ensure_ascii=not plain)


def show_status(client: Client, options: argparse.Namespace) -> None:
    """Show which VMs are watched, and how well."""
    answer = client.call_vesperd("status")
    vms = [vm for vm in answer["vms"] if options.vm in (None, vm["vm"])]
    if options.vm is not None and not vms:
        raise DaemonError(
            "no-such-vm",
            f"{options.vm}: is not watched on this host; start watching it with: "
            f"vesper activate {options.vm}",
        )
    if options.json:
        print_json({**answer, "vms": vms})
        return
    rows = [
        (
            vm["vm"],
            vm["domid"],
            vm["transport"],
            vm["resource"],
            _describe_watched(vm),
            _describe_probes(vm["probes"]),
            _sum_counts(vm["probes"], "records"),
            _sum_counts(vm["probes"], "lost"),
            _describe_monitor(vm),
        )
        for vm in vms
    ]
    if rows:
        header = (
            "VM", "ID", "ON", "RESOURCE", "STATE", "PROBES", "RECORDS", "LOST", "MONITOR",
        )  # fmt: skip
        print(format_columns(header, rows))
    else:
        print("No VM is watched on this host.")
    for vm in vms:
        if vm["fault"]:
            print(format_note("fault", f"{vm['vm']}: {vm['fault']['reason']}"))
        if vm.get("deferred"):
            print(format_note("deferred", vm["deferred"]))
        if vm.get("paused"):
            print(format_note("paused", f"{vm['vm']}: {vm['paused']['text']}"))
        for mark, said in _list_troubles(vm):
            print(format_note(mark, said))
    for name, error in answer["transports"].items():
        if error:
            print(format_note("transport", f"{name}: {error}"))
    if not answer["transports"]:
        print(format_note("transport", "none is installed; vesperd cannot watch any VM"))
    if answer.get("journal"):
        print(format_note("journal", answer["journal"]))


def show_events(client: Client, options: argparse.Namespace) -> None:
    """Show recorded events, and with --follow new ones as they happen."""
    limit = options.limit
    if limit is None and options.since is None:
        limit = SCREENFUL_LINES if not options.follow else 0
    request = {"vm": options.vm, "since": options.since, "limit": limit}
    fields = {key: value for key, value in request.items() if value is not None}
    for answer in client.stream_answers("events", follow=options.follow, **fields):
        if options.json:
            line = format_json(answer.get("event", answer))
        elif "event" in answer:
            line = _format_event(answer["event"])
        else:
            line = f"... {answer.get('dropped', '?')} events omitted: this reader is too slow"
        print(line, flush=options.follow)


def _format_event(event: dict[str, Any]) -> str:
    """Return the line of one event."""
    return f"{format_time(event['received'], parts=True)}  {event['vm']}  {event['text']}"


def show_faults(client: Client, options: argparse.Namespace) -> None:
    """List the faults in the journal."""
    fields = {"vm": options.vm} if options.vm else {}
    limit = SCREENFUL_LINES if options.limit is None else options.limit
    answer = client.call_vesperd("faults", limit=limit, **fields)
    if options.json:
        print_json(answer["faults"])
        return
    if not answer["faults"]:
        print("No faults.")
        return
    rows = [
        (
            fault["id"] or "not written yet", format_time(fault["seen"]), fault["resource"],
            fault.get("class", "-"), _describe_fate(fault), fault["reason"],
        )
        for fault in answer["faults"]
    ]  # fmt: skip
    print(format_columns(("ID", "SEEN", "RESOURCE", "CLASS", "STATE", "REASON"), rows))


def show_fault(client: Client, options: argparse.Namespace) -> None:
    """Show all details of one fault."""
    answer = client.call_vesperd("fault", id=options.id)
    if options.json:
        print_json({"fault": answer["fault"], "last_words": answer["last_words"]})
        return
    found = answer["fault"]
    print(f"fault {found['id']}: {found['reason']}")
    rows = [
        ("resource", found["resource"]),
        ("VM", f"{found['vm']} (domain {found['domid']}, {found['uuid']})"),
        ("seen", format_time(found["seen"], parts=True)),
        ("told", format_time(found["told"], parts=True) if found["told"] is not None else None),
        ("class", found.get("class")),
        ("state", _describe_fate(found)),
        ("rule", found["rule"]),
        ("event", found["event"].get("text")),
    ]
    print(format_columns(("", ""), rows).lstrip("\n"))
    for words in answer["last_words"]:
        cut = "" if words["complete"] else " (cut short)"
        print(f"\n{format_time(words['received'], parts=True)} kernel {words['kind']}{cut}: "
              f"{words['message']}")  # fmt: skip
        for title, text in (("stack", words["stack"]), ("end of the log", words["log"])):
            if text:
                print(f"{title}:")
                print("\n".join(f"  {line}" for line in text.rstrip().split("\n")))


def list_probes(client: Client, options: argparse.Namespace) -> None:
    """List the probe images of this host, or the probes in a guest."""
    if options.vm is not None:
        _list_probes_of_vm(client, options)
        return
    images = ImageStore(Path(options.probes_dir)).list_images()
    if options.json:
        print_json(
            [
                {
                    "probe": image.name,
                    "release": image.release,
                    "vermagic": image.vermagic,
                    "path": str(image.path),
                }
                for image in images
            ]
        )
    elif images:
        rows = [(image.name, image.release, image.path) for image in images]
        print(format_columns(("PROBE", "KERNEL", "IMAGE"), rows))
    else:
        print(
            f"There are no probe images in {options.probes_dir}; "
            "build them with: vesper probe build RELEASE (uname -r of the guest)"
        )


def _list_probes_of_vm(client: Client, options: argparse.Namespace) -> None:
    watched = [vm for vm in client.call_vesperd("status")["vms"] if vm["vm"] == options.vm]
    if not watched:
        raise DaemonError(
            "not-active",
            f"{options.vm}: is not watched; start watching it with: vesper activate {options.vm}",
        )
    found = watched[0]["probes"]
    if options.json:
        print_json(found)
        return
    rows = [
        (probe["name"], probe["state"], probe["records"], probe["lost"], probe["params"])
        for probe in found
    ]
    print(format_columns(("PROBE", "STATE", "RECORDS", "LOST", "PARAMETERS"), rows))
    for probe in found:
        if probe["error"]:
            print(format_note(probe["name"], probe["error"]))


def explain_probe(client: Client, options: argparse.Namespace) -> None:
    """Explain one probe, or list all with what is a fault by default."""
    if options.probe is not None and options.probe not in probes.PROBES:
        raise DaemonError(
            "no-such-probe",
            f"{options.probe}: no such probe; built in are: {', '.join(probes.PROBES)}",
        )
    names = list(probes.PROBES) if options.probe is None else [options.probe]
    if options.json:
        known = [probes.to_json(name) for name in names]
        print_json(known if options.probe is None else known[0])
    elif options.probe is None:
        rows = [(name, probes.PROBES[name].fault) for name in names]
        print(format_columns(("PROBE", "FAULT BY DEFAULT"), rows))
    else:
        for heading, texts in probes.list_sections(options.probe):
            print(f"{heading}:")
            for text in texts:
                print(format_paragraph(text))


def copy_records(client: Client, options: argparse.Namespace) -> None:
    """Copy raw records of a probe to standard output as they arrive."""
    fields = {"vm": options.vm, "probe": options.probe}
    if options.cpu is not None:
        fields["cpu"] = options.cpu
    for answer in client.stream_answers("relay", **fields):
        if options.json:
            print(json.dumps(answer), flush=True)
        else:
            sys.stdout.buffer.write(base64.b64decode(answer["data"]))
            sys.stdout.buffer.flush()


def _describe_watched(vm: dict[str, Any]) -> str:
    if vm["fault"]:
        return "fault"
    if vm["state"] == "dead":
        return "dead"
    if vm.get("paused") or (vm.get("standstill") or {}).get("paused"):
        return "paused"
    return "degraded" if vm["degraded"] else str(vm["state"])


def _list_troubles(vm: dict[str, Any]) -> list[tuple[str, str]]:
    """Return labelled sentences: why a VM is degraded or dead, and why its guest is silent.

    If one sentence says both, it is returned once.
    """
    found = []
    degraded, standstill = vm["degraded"], vm.get("standstill") or {"text": None, "since": None}
    if degraded and degraded != standstill["text"]:
        found.append(("dead" if vm["state"] == "dead" else "degraded", degraded))
    if standstill["text"]:
        mark = "degraded" if degraded == standstill["text"] else "guest"
        found.append((mark, standstill["text"] + _format_ago(standstill["since"])))
    return found


def _format_ago(since: float | None) -> str:
    if since is None:
        return ""
    minutes, seconds = divmod(max(0, round(time.time() - since)), 60)
    return f" ({minutes} min ago)" if minutes else f" ({seconds} s ago)"


def _describe_monitor(vm: dict[str, Any]) -> str | None:
    if vm["resource"] is None:
        return None
    return "waiting" if vm["waiting"] else "not now"


def _describe_probes(probes: list[dict[str, Any]]) -> str:
    return ", ".join(
        probe["name"] if probe["state"] == "collecting" else f"{probe['name']} ({probe['state']})"
        for probe in probes
    )


def _sum_counts(probes: list[dict[str, Any]], key: str) -> int:
    return sum(probe[key] for probe in probes)


def _describe_fate(fault: dict[str, Any]) -> str:
    if fault["ended"] is not None:
        return f"ended by {fault['ended_by']}"
    return "held" if fault["told"] is None else "told"


def format_time(seconds: float, *, parts: bool = False) -> str:
    """Return the local time, to the second or, with ``parts``, to the millisecond."""
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"{text}.{int(seconds % 1 * 1000):03d}" if parts else text
