# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of ``vesper`` that change something."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vesper_monitor.client import Client, DaemonError
from vesper_monitor.command.show import print_json
from vesper_monitor.guest.control import images

__all__ = [
    "activate_vm",
    "clear_fault",
    "deactivate_vm",
    "pause_vm",
    "probe_add",
    "probe_build",
    "probe_load",
    "probe_unload",
    "resume_vm",
]

#: s for a guest to load a module or to become active.
GUEST_TIMEOUT_S = 90.0


def clear_fault(client: Client, options: argparse.Namespace) -> None:
    """A fault is over."""
    which = options.which
    field: dict[str, Any] = {"id": int(which)} if which.isdecimal() else {"resource": which}
    answer = client.call_vesperd("clear", **field)
    if options.json:
        print_json({"cleared": answer["cleared"]})
    elif answer["cleared"]:
        print(
            "Cleared. Pacemaker's own failure count stays; reset it with: "
            "crm_resource --refresh --resource RESOURCE"
        )
    else:
        raise DaemonError("no-such-vm", f"{which}: no fault is held; see: vesper faults")


def activate_vm(client: Client, options: argparse.Namespace) -> None:
    """Begin to watch a VM."""
    fields = {"probes": options.probes} if options.probes else {}
    answer = client.call_vesperd("activate", reply_timeout=GUEST_TIMEOUT_S, vm=options.vm, **fields)
    _print_done(options, answer, f"{options.vm}: active")


def deactivate_vm(client: Client, options: argparse.Namespace) -> None:
    """End watching a VM."""
    answer = client.call_vesperd("deactivate", reply_timeout=GUEST_TIMEOUT_S, vm=options.vm)
    _print_done(options, answer, f"{options.vm}: no longer watched")


def pause_vm(client: Client, options: argparse.Namespace) -> None:
    """Report nothing of a VM for a while."""
    fields = {"reason": options.reason} if options.reason else {}
    answer = client.call_vesperd("pause", vm=options.vm, **{"for": options.seconds}, **fields)
    _print_done(options, answer, f"{options.vm}: {answer['paused']['text']}")


def resume_vm(client: Client, options: argparse.Namespace) -> None:
    """Report again."""
    answer = client.call_vesperd("resume", vm=options.vm)
    if not answer["resumed"]:
        raise DaemonError("no-such-vm", f"{options.vm}: is not paused; see: vesper status")
    _print_done(options, answer, f"{options.vm}: watching goes on")


def probe_add(client: Client, options: argparse.Namespace) -> None:
    """Define a probe and load it into a guest."""
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


def probe_load(client: Client, options: argparse.Namespace) -> None:
    """Load a probe into a guest."""
    fields = {"vm": options.vm, "probe": options.probe}
    if options.params:
        fields["params"] = " ".join(options.params)
    answer = client.call_vesperd("load", reply_timeout=GUEST_TIMEOUT_S, **fields)
    _print_done(options, answer, f"{options.vm}: {options.probe} loaded")


def probe_unload(client: Client, options: argparse.Namespace) -> None:
    """Unload a probe from a guest."""
    answer = client.call_vesperd(
        "unload", reply_timeout=GUEST_TIMEOUT_S, vm=options.vm, probe=options.probe
    )
    _print_done(options, answer, f"{options.vm}: {options.probe} unloaded")


def probe_build(client: Client, options: argparse.Namespace) -> None:
    """Build the images for a kernel release."""
    headers = Path(options.headers) if options.headers else images.find_headers(options.release)
    source = Path(options.source) if options.source else None
    store = images.ImageStore(Path(options.probes_dir))
    if not options.json:
        print(f"Building probes with {headers} ...", flush=True)
    built = images.build_images(headers, store, source=source)
    if options.json:
        paths = [str(image.path) for image in built.images]
        print_json({"built": paths, "failed": built.failures})
    else:
        for image in built.images:
            print(image.path)
        other = {image.release for image in built.images} - {options.release}
        if other:
            print(f"note: these headers are of {', '.join(other)}, not of {options.release}")
    if built.failures:
        errors = "".join(f"\n  {name}: {error}" for name, error in built.failures.items())
        raise images.ImageError(
            f"{len(built.failures)} of {len(built.images) + len(built.failures)} probes cannot be "
            f"built for this kernel; guests with it are watched without:{errors}"
        )


def _print_done(options: argparse.Namespace, answer: dict[str, Any], text: str) -> None:
    if options.json:
        print_json({key: value for key, value in answer.items() if key != "ok"})
    else:
        print(text)
