# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of ``vesper`` that change something: activate, pause, faults clear, probe load ..."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vesper_monitor.client import Client, DaemonError
from vesper_monitor.command.show import print_json
from vesper_monitor.guest.control import images

__all__ = [
    "activate_vm",
    "add_probe",
    "build_probes",
    "clear_fault",
    "deactivate_vm",
    "load_probe",
    "pause_vm",
    "resume_vm",
    "unload_probe",
]

#: s that a guest may take to load a module or to become active.
GUEST_TIMEOUT_S = 90.0


def clear_fault(client: Client, options: argparse.Namespace) -> None:
    """Mark a fault as over."""
    which = options.which
    field: dict[str, Any] = {"id": int(which)} if which.isdecimal() else {"resource": which}
    answer = client.call_vesperd("clear", **field)
    if options.json:
        print_json({"cleared": answer["cleared"]})
    elif answer["cleared"]:
        print(
            "Cleared. Pacemaker keeps its own failure count; reset it with: "
            "crm_resource --refresh --resource RESOURCE"
        )
    else:
        raise DaemonError(
            "no-such-vm", f"{which}: no fault is held; list the faults with: vesper faults"
        )


def activate_vm(client: Client, options: argparse.Namespace) -> None:
    """Start watching a VM."""
    fields = {"probes": options.probes} if options.probes else {}
    answer = client.call_vesperd("activate", reply_timeout=GUEST_TIMEOUT_S, vm=options.vm, **fields)
    _print_done(options, answer, f"{options.vm}: active")


def deactivate_vm(client: Client, options: argparse.Namespace) -> None:
    """Stop watching a VM: unload its probes and remove the device."""
    answer = client.call_vesperd("deactivate", reply_timeout=GUEST_TIMEOUT_S, vm=options.vm)
    _print_done(options, answer, f"{options.vm}: no longer watched")


def pause_vm(client: Client, options: argparse.Namespace) -> None:
    """Suspend reporting of a VM's faults for a while."""
    fields = {"reason": options.reason} if options.reason else {}
    answer = client.call_vesperd("pause", vm=options.vm, **{"for": options.seconds}, **fields)
    _print_done(options, answer, f"{options.vm}: {answer['paused']['text']}")


def resume_vm(client: Client, options: argparse.Namespace) -> None:
    """End a pause."""
    answer = client.call_vesperd("resume", vm=options.vm)
    if not answer["resumed"]:
        raise DaemonError(
            "no-such-vm", f"{options.vm}: is not paused; list the VMs with: vesper status"
        )
    _print_done(options, answer, f"{options.vm}: faults are reported again")


def add_probe(client: Client, options: argparse.Namespace) -> None:
    """Load a dynamic probe, by its definition, into a guest."""
    definition = " ".join(options.definition)
    try:
        answer = client.call_vesperd(
            "add", reply_timeout=GUEST_TIMEOUT_S, vm=options.vm, definition=definition
        )
    except DaemonError as error:
        position = error.answer.get("position")
        if isinstance(position, int) and not options.json:
            text = f"{error}\n  {definition}\n  {' ' * position}^"
            raise DaemonError(error.code, text, error.answer) from error
        raise
    _print_done(options, answer, f"{options.vm}: {answer['probe']} loaded")


def load_probe(client: Client, options: argparse.Namespace) -> None:
    """Load a built-in probe into a guest."""
    fields = {"vm": options.vm, "probe": options.probe}
    if options.params:
        fields["params"] = " ".join(options.params)
    answer = client.call_vesperd("load", reply_timeout=GUEST_TIMEOUT_S, **fields)
    _print_done(options, answer, f"{options.vm}: {options.probe} loaded")


def unload_probe(client: Client, options: argparse.Namespace) -> None:
    """Unload a probe from a guest."""
    answer = client.call_vesperd(
        "unload", reply_timeout=GUEST_TIMEOUT_S, vm=options.vm, probe=options.probe
    )
    _print_done(options, answer, f"{options.vm}: {options.probe} unloaded")


def build_probes(client: Client, options: argparse.Namespace) -> None:
    """Build the probe images for a kernel release."""
    headers = Path(options.headers) if options.headers else images.find_headers(options.release)
    source = Path(options.source) if options.source else None
    store = images.ImageStore(Path(options.probes_dir))
    if not options.json:
        print(f"Building the probes with {headers} ...", flush=True)
    built = images.build_images(headers, store, source=source)
    if options.json:
        paths = [str(image.path) for image in built.images]
        print_json({"built": paths, "failed": built.failures})
    else:
        for image in built.images:
            print(image.path)
        other = {image.release for image in built.images} - {options.release}
        if other:
            print(f"note: these headers belong to {', '.join(other)}, not to {options.release}")
    if built.failures:
        errors = "".join(f"\n  {name}: {error}" for name, error in built.failures.items())
        raise images.ImageError(
            f"{len(built.failures)} of {len(built.images) + len(built.failures)} probes cannot be "
            f"built for this kernel; its guests are watched without these probes:{errors}"
        )


def _print_done(options: argparse.Namespace, answer: dict[str, Any], text: str) -> None:
    """Print the answer as JSON, or this sentence."""
    if options.json:
        print_json({key: value for key, value in answer.items() if key != "ok"})
    else:
        print(text)
