# SPDX-License-Identifier: GPL-2.0-or-later
"""``vesper advise``: which probes and fault rules fit a VM."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from vesper_monitor import knowledge
from vesper_monitor.client import Client, DaemonError
from vesper_monitor.command.rules import list_resources, read_recorded_events
from vesper_monitor.command.show import print_json
from vesper_monitor.command.table import format_paragraph
from vesper_monitor.knowledge.advice import Advice, Proposal, combine_advice, propose_advice
from vesper_monitor.rules.dry_run import try_rules

__all__ = ["add_parser", "propose_rules"]

DEFAULT_PROBES = ("send_signal", "out_of_memory")


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """The command line."""
    command = commands.add_parser(
        "advise",
        help="which probes and fault rules fit",
        description="Proposes probes and a line for fault_on: by the words of a symptom, and by "
        "what vesperd has recorded of the VM. Without VM and vesperd, by the words alone.",
    )
    command.add_argument(
        "vm", nargs="?", metavar="VM", help="whose events and resource are looked at"
    )
    command.add_argument(
        "--service", action="append", metavar="NAME",
        help="the service's process; may be repeated (those of the VM's resource)",
    )  # fmt: skip
    command.add_argument(
        "--symptom", default="", metavar="TEXT", help="what is wrong, in your words"
    )
    command.add_argument(
        "--knowledge", action="append", metavar="DIR",
        help=f"files of symptoms; may be repeated (those shipped, {knowledge.OWN})",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="for programs (docs/api.md)")
    command.set_defaults(run=propose_rules)


def propose_rules(client: Client, options: argparse.Namespace) -> None:
    """Propose."""
    try:
        directories = options.knowledge or (knowledge.SHIPPED, knowledge.OWN)
        symptoms = knowledge.load_symptoms(map(Path, directories))
    except knowledge.KnowledgeError as error:
        raise DaemonError("bad-request", str(error)) from error
    resource = list_resources(client).get(options.vm, {}) if options.vm is not None else {}
    services = options.service or resource.get("services", [])
    events = read_recorded_events(client, options.vm, None) if options.vm is not None else []
    advices = propose_advice(symptoms, events, options.symptom, services)
    proposal = combine_advice(
        advices,
        [probe["name"] for probe in resource.get("probes", [])] or DEFAULT_PROBES,
        services,
        resource.get("fault_on", ""),
    )
    hits = try_rules(proposal.fault_on, events, lambda _: services)
    if options.json:
        print_json(
            {
                "advice": [_advice_to_json(advice) for advice in advices],
                "probes": proposal.probes,
                "services": proposal.services,
                "fault_on": proposal.fault_on,
                "events": len(events),
                "faults": len(hits),
            }
        )
        return
    if options.vm is not None and not events and not resource:
        print(f"{options.vm}: nothing is on record, and no resource here is responsible for it.\n")
    if options.symptom and not any(advice.words for advice in advices):
        known = ", ".join(symptom.name for symptom in symptoms)
        print(f"No symptom has a word of: {options.symptom}. Known are: {known}.")
    for advice in advices:
        _print_advice(advice)
    _print_commands(options, resource.get("resource") or "RESOURCE", proposal)
    if events:
        print(f"\nOf the {len(events)} events on record it would have called {len(hits)} a fault.")


def _print_advice(advice: Advice) -> None:
    symptom = advice.symptom
    print(f"{symptom.name}: {symptom.title}")
    print(format_paragraph(f"because {advice.reason}"))
    said = {
        "probes": " ".join(symptom.probes) or "none needed",
        "rules": symptom.rules or "the default ones",
        "why": symptom.why,
        "also": symptom.also,
        "cost": advice.cost,
        "kernel": advice.kernels,
        "needs": "the resource's parameter services" if symptom.service else "",
        "after": symptom.source,
    }
    for key, text in said.items():
        if text:
            print(format_paragraph(f"{key}: {text}"))
    print()


def _print_commands(options: argparse.Namespace, resource: str, proposal: Proposal) -> None:
    print("To paste:")
    print(f"  probes={shlex.quote(' '.join(proposal.probes))}")
    if proposal.services:
        print(f"  services={shlex.quote(' '.join(proposal.services))}")
    if proposal.fault_on:
        print(f"  fault_on={shlex.quote(proposal.fault_on)}")
    else:
        print("  (no fault_on: the default rules do)")
    print("\nFor example:")
    print(f"  crm resource param {resource} set probes {shlex.quote(' '.join(proposal.probes))}")
    if proposal.fault_on:
        print(f"  crm resource param {resource} set fault_on {shlex.quote(proposal.fault_on)}")


def _advice_to_json(advice: Advice) -> dict[str, Any]:
    symptom = advice.symptom
    return {
        "name": symptom.name,
        "title": symptom.title,
        "words": advice.words,
        "seen": [hit.event.id for hit in advice.seen],
        "reason": advice.reason,
        "probes": symptom.probes,
        "rules": symptom.rules,
        "why": symptom.why,
        "also": symptom.also,
        "cost": advice.cost,
        "kernels": advice.kernels,
        "source": symptom.source,
    }
