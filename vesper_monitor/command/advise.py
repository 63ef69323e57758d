# SPDX-License-Identifier: GPL-2.0-or-later
"""``vesper advise``: propose probes and fault rules for a VM."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from vesper_monitor import knowledge
from vesper_monitor.client import Client, DaemonError
from vesper_monitor.command.options import add_json_option, add_service_option
from vesper_monitor.command.rules import list_resources, read_recorded_events
from vesper_monitor.command.show import print_json
from vesper_monitor.command.table import format_paragraph
from vesper_monitor.knowledge.advice import Advice, Proposal, combine_advice, propose_advice
from vesper_monitor.rules.dry_run import try_rules

__all__ = ["add_parsers", "propose_rules"]

DEFAULT_PROBES = ("send_signal", "out_of_memory")


def add_parsers(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command line of ``vesper advise``."""
    command = commands.add_parser(
        "advise",
        help="propose probes and fault rules for a VM",
        description="Propose probes and rules for fault_on, by the words of a symptom and by the "
        "events that vesperd has recorded of the VM. Without VM, by the words alone; vesperd "
        "need not run for this.",
    )
    command.add_argument(
        "vm", nargs="?", metavar="VM", help="use the recorded events and the resource of this VM"
    )
    add_service_option(command)
    command.add_argument("--symptom", default="", metavar="TEXT", help="the symptom, in your words")
    command.add_argument(
        "--knowledge", action="append", metavar="DIR",
        help="directory of symptoms files; repeatable "
        f"(default: the shipped one, and {knowledge.OWN})",
    )  # fmt: skip
    add_json_option(command)
    command.set_defaults(run=propose_rules)


def propose_rules(client: Client, options: argparse.Namespace) -> None:
    """Propose probes and fault rules."""
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
        print(f"{options.vm}: has no recorded events, and belongs to no resource on this host.\n")
    if options.symptom and not any(advice.words for advice in advices):
        known = ", ".join(symptom.name for symptom in symptoms)
        print(f"No known symptom has a word of {options.symptom!r}. Known symptoms: {known}.")
    for advice in advices:
        _print_advice(advice)
    _print_commands(options, resource.get("resource") or "RESOURCE", proposal)
    if events:
        print(f"\nWith these rules {len(hits)} of {len(events)} recorded events would be faults.")


def _print_advice(advice: Advice) -> None:
    symptom = advice.symptom
    print(f"{symptom.name}: {symptom.title}")
    print(format_paragraph(f"because {advice.reason}"))
    said = {
        "probes": " ".join(symptom.probes) or "none are needed",
        "rules": symptom.rules or "the default rules",
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
        print("  (no fault_on: the default rules are sufficient)")
    probes, rules = shlex.quote(" ".join(proposal.probes)), shlex.quote(proposal.fault_on)
    print("\nFor example, with crmsh:")
    print(f"  crm resource param {resource} set probes {probes}")
    if proposal.fault_on:
        print(f"  crm resource param {resource} set fault_on {rules}")
    print("or with pcs:")
    fault_on = f" fault_on={rules}" if proposal.fault_on else ""
    print(f"  pcs resource update {resource} probes={probes}{fault_on}")


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
