# SPDX-License-Identifier: GPL-2.0-or-later
"""``vesper rules``: try fault rules on recorded events, and explain them in words."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vesper_monitor.client import Client, DaemonError
from vesper_monitor.command.options import add_json_option, add_service_option
from vesper_monitor.command.show import format_time, print_json
from vesper_monitor.command.table import format_columns, format_note, format_paragraph
from vesper_monitor.guest.event import Event
from vesper_monitor.rules.dry_run import Comparison, Hit, compare_with_faults, event_of, try_rules
from vesper_monitor.rules.fields import FIELDS
from vesper_monitor.rules.language import MAX_LENGTH, RuleError, parse_rules
from vesper_monitor.rules.rule_set import RuleSet

__all__ = [
    "add_parsers",
    "check_rules",
    "check_text",
    "explain_rules",
    "list_fields",
    "list_resources",
    "read_recorded_events",
]

#: Faults that vesperd returns at most: the newest.
MAX_FAULTS = 1000

_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def add_parsers(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command line of ``vesper rules``."""
    rules = commands.add_parser(
        "rules", help="check and explain fault rules (the parameter fault_on)"
    )
    sub = rules.add_subparsers(metavar="COMMAND", required=True)
    trying = sub.add_parser(
        "check",
        help="list the recorded events that the rules would have called faults",
        description="Try rules (vesper-rules(7)) on the events in vesperd's journal. Without FILE "
        "and -e, the rules are those of the VM's resource, or the default rules.",
    )
    trying.add_argument(
        "--since",
        type=_parse_since,
        metavar="ID|TIME",
        help="check events after this event, or of the last 90m, 2h, 3d",
    )
    add_service_option(trying)
    trying.set_defaults(run=check_rules)
    saying = sub.add_parser("explain", help="explain rules in words")
    saying.set_defaults(run=explain_rules)
    listing = sub.add_parser("fields", help="list the event fields that rules can test")
    listing.add_argument(
        "probe", nargs="?", metavar="PROBE", help="list only the fields of this probe"
    )
    add_json_option(listing)
    listing.set_defaults(run=list_fields)
    for command in (trying, saying):
        command.add_argument(
            "file", nargs="?", metavar="FILE", help="file with the rules; - is standard input"
        )
        command.add_argument("-e", dest="text", metavar="TEXT", help="the rules themselves")
        command.add_argument(
            "--vm", metavar="VM", help="take this VM's events, and its resource's rules"
        )
        add_json_option(command)


def check_rules(client: Client, options: argparse.Namespace) -> None:
    """List the recorded events that rules would have called faults."""
    text = _find_rules_text(client, options)
    doubts = check_text(text)
    events = read_recorded_events(client, options.vm, options.since)
    services = list_resources(client)

    def services_of(vm: str) -> Collection[str]:
        return list(options.service or services.get(vm, {}).get("services", ()))

    hits = try_rules(text, events, services_of)
    of_vm = {"vm": options.vm} if options.vm is not None else {}
    known = client.call_vesperd("faults", limit=MAX_FAULTS, **of_vm)["faults"]
    beside = compare_with_faults(hits, events, known)
    if options.json:
        print_json(
            {
                "events": len(events),
                "faults": [
                    {
                        "event": hit.event.to_json(), "text": hit.rule.text,
                        "rule": hit.verdict.rule, "class": hit.fault_class.value,
                        "scope": hit.verdict.scope.value, "reason": hit.verdict.reason,
                        "was": _faults_it_was(hit, beside),
                    }
                    for hit in hits
                ],
                "dropped": [
                    {"fault": fault["id"], "event": fault["event"]["id"], "reason": fault["reason"]}
                    for fault in beside.dropped
                ],
                "doubts": [str(doubt) for doubt in doubts],
            }
        )  # fmt: skip
        return
    for doubt in doubts:
        print(format_note("doubt", str(doubt)), file=sys.stderr)
    print(f"{len(hits)} of {len(events)} events would have been faults.")
    if hits:
        rows = [
            (hit.event.id, format_time(hit.event.received), hit.event.vm,
             " ".join(map(str, _faults_it_was(hit, beside))) or "-", hit.rule.text,
             hit.verdict.reason)
            for hit in hits
        ]  # fmt: skip
        print(format_columns(("EVENT", "SEEN", "VM", "FAULT", "RULE", "REASON"), rows))
    if beside.dropped:
        print("These events were faults, and would no longer be faults:")
        lost = [
            (
                fault["event"]["id"],
                format_time(fault["seen"]),
                fault["vm"],
                fault["id"],
                fault["reason"],
            )
            for fault in beside.dropped
        ]
        print(format_columns(("EVENT", "SEEN", "VM", "FAULT", "REASON"), lost))


def _faults_it_was(hit: Hit, beside: Comparison) -> tuple[int, ...]:
    """Return the IDs of the faults that this event was, under the rules in force then."""
    return beside.was.get(hit.event.id, ()) if hit.event.id is not None else ()


def explain_rules(client: Client, options: argparse.Namespace) -> None:
    """Explain rules in words."""
    text = _find_rules_text(client, options)
    doubts = check_text(text)
    own = {rule.probe for rule in parse_rules(text).rules}
    rules = RuleSet(text).rules
    if options.json:
        said = [
            {
                "probe": probe,
                "default": probe not in own,
                "rules": [{"text": rule.text, "words": rule.describe_rule()} for rule in named],
            }
            for probe, named in rules.items()
        ]
        print_json({"probes": said, "doubts": [str(doubt) for doubt in doubts]})
        return
    for doubt in doubts:
        print(format_note("doubt", str(doubt)), file=sys.stderr)
    for probe, named in rules.items():
        print(f"{probe}{'' if probe in own else ' (default)'}:")
        for rule in named:
            print(format_paragraph(rule.describe_rule()))


def list_fields(client: Client, options: argparse.Namespace) -> None:
    """List the event fields that rules can test, with their types."""
    if options.probe is not None and options.probe not in FIELDS:
        raise DaemonError(
            "no-such-probe", f"{options.probe}: no such probe; built in are: {', '.join(FIELDS)}"
        )
    chosen = {p: kinds for p, kinds in FIELDS.items() if options.probe in (None, p)}
    if options.json:
        print_json({p: {name: kind.value for name, kind in k.items()} for p, k in chosen.items()})
        return
    rows = [(p, name, kind.value) for p, kinds in chosen.items() for name, kind in kinds.items()]
    print(format_columns(("PROBE", "FIELD", "IS"), rows))


def check_text(text: str, source: str = "rules") -> tuple[RuleError, ...]:
    """Return the doubts about a rule set.

    :raises DaemonError: the rules are invalid; the text shows where.
    """
    try:
        return parse_rules(text).doubts
    except RuleError as error:
        raise DaemonError("bad-request", f"{source}: {error}\n{error.show_place()}") from error


def read_recorded_events(client: Client, vm: str | None, since: int | float | None) -> list[Event]:
    """Return events of the journal.

    :param vm: only events of this VM.
    :param since: only events after the event with this ID (int), or of so many seconds
        before now (float).
    """
    request: dict[str, Any] = {"since": since if isinstance(since, int) else 0}
    if vm is not None:
        request["vm"] = vm
    answers = client.stream_answers("events", **request)
    events = [event_of(answer["event"]) for answer in answers if "event" in answer]
    if isinstance(since, float):
        begin = time.time() - since
        events = [event for event in events if event.received >= begin]
    return events


def list_resources(client: Client) -> dict[str, dict[str, Any]]:
    """Return the status of each VM that belongs to a resource, by the VM's name."""
    return {
        vm["vm"]: vm for vm in client.call_vesperd("status")["vms"] if vm["resource"] is not None
    }


def _find_rules_text(client: Client, options: argparse.Namespace) -> str:
    """Return the rules that the command line names.

    :raises DaemonError: it names none, or they cannot be read.
    """
    if options.text is not None and options.file is not None:
        raise DaemonError("bad-request", "give either FILE or -e TEXT")
    if options.text is not None:
        return str(options.text)
    if options.file is not None:
        try:
            if options.file == "-":
                return sys.stdin.read(MAX_LENGTH + 1)
            with Path(options.file).open(encoding="utf-8", errors="replace") as file:
                return file.read(MAX_LENGTH + 1)
        except OSError as error:
            raise DaemonError("bad-request", f"{options.file}: {error.strerror}") from error
    if options.vm is None:
        return ""
    of_vm = list_resources(client).get(options.vm)
    if of_vm is None:
        raise DaemonError(
            "no-such-vm", f"{options.vm}: belongs to no resource on this host; give the rules with "
            "-e TEXT or in a FILE",
        )  # fmt: skip
    return str(of_vm.get("fault_on", ""))


def _parse_since(text: str) -> int | float:
    if text.isascii() and text.isdecimal():
        return int(text)
    if re.fullmatch(r"[0-9]{1,6}[mhd]", text):
        return float(int(text[:-1]) * _UNITS[text[-1]])
    raise argparse.ArgumentTypeError(
        f"neither an event's ID nor a duration: {text!r} (write 90m, 2h or 3d)"
    )
