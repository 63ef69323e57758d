# SPDX-License-Identifier: GPL-2.0-or-later
"""Each degraded text has its entry in docs/troubleshooting.md, found by its words."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vesper_monitor.guest.health.hang_detector import Silence

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("vesper_monitor", "xen_transport", "kvm_transport", "ocf")
    for path in (PROJECT / folder).rglob("*")
    if path.suffix == ".py" or (path.parent.name == "ocf" and path.name.endswith("VM"))
)

#: What a degraded text says, in words of its source.
TEXTS = (
    # The guest does not answer.
    "no answer from VESPER in the guest's kernel; load the modules",
    "no contact with the guest's VESPER modules yet",
    "VESPER in the guest's kernel cannot share its memory",
    "has said good-bye at",
    "reboots since",
    "was reset at",
    "shows no life since",
    "was heard before and does not answer",
    "shows no sign of life since",
    "is paused",
    "sleeps (suspend to RAM)",
    "no answer from the guest within",
    "the guest's VESPER modules speak protocol",
    "the guest's VESPER modules refuse protocol",
    "the guest's C-chan is broken",
    "the guest's C-chan page has no magic number",
    "the guest's channel table has no magic number",
    "impossible channel of probe",
    "impossible region",
    "the guest claims to have",
    "the guest names an impossible kernel release",
    "the guest's frontend has published an unusable",
    "xenstored did not answer within",
    "its QEMU has ended",
    "does not exist any more",
    # A probe is missing.
    "has no image of probe",
    "was built for",
    "is not loaded yet",
    "cannot load probe",
    "has stopped: ",
    "the guest has unloaded it",
    "was loaded but shows no relay channel",
    "records of CPU",
    "build it again",
    "strip it",
    "who could change what goes into guests' kernels",
    "image not used",
    # A service is missing.
    "and is not back",
    "no process is named",
    "after the boot",
    "is a login's",
    # Too many faults.
    "as many as max_failovers allows",
    # Not watched.
    "vesperd is not running",
    "vesperd did not answer within",
    "vesperd does not accept connections",
    "vesperd closed the connection",
    "answer is not JSON",
    "answer is not an object",
    "vesperd does not know it",
    "vesperd sent an unknown answer",
    "vesperd was not told of its restart",
    "vesperd has not begun to watch it yet",
    "which vesperd does not use",
    "no transport is installed",
    "its session has ended",
    "its resource was stopped or begun anew",
    "an operator has ended the watch",
    "an internal error of vesperd ended the watch",
    # The transport, after "is not watched: transport".
    "libvirt does not run here",
    "Xen's toolstack hangs",
    "install xen-utils",
    "load the kernel module xen-gntdev",
    "load the kernel module xen-evtchn",
    "cannot be loaded",
    "hidepid",
    "vesperd sees that a domain ends, but not why",
    "libvirt's client library is not installed",
    "libvirt's status files",
    "/proc/xen is not mounted",
    "this kernel does not run on Xen",
    "this is a guest of Xen",
    "settings in [",
    # VESPER's device.
    "has no VESPER device",
    "vesper-ivshmem does not answer",
    "its XML has no VESPER device, and add_device=false",
    "vesper-ivshmem is not running",
    "vesper-ivshmem did not run",
    "vesper-ivshmem did not answer within",
    "and takes no more",
    "is not vesper-ivshmem",
    "cannot have an ivshmem device",
    "another device has the alias",
    "it has no room for VESPER's device",
    "it started only without VESPER's device",
    "attach-device",
    # Which domain.
    "cannot tell whether",
    "did not finish within",
    "but its kernel showed life to vesperd",
    "runs, but the configuration names",
    "belongs to resource",
    "cannot tell which domain",
    # Parameters and scripts.
    "must be a whole number",
    "must be 0 or at least",
    "has more than",
    "is not the name of a probe",
    "has a quotation mark",
    "is a path",
    "bytes that the kernel keeps",
    "must be one or more of",
    "what was in force stays",
    "cannot be run on this node",
    # The installation.
    "VESPER's library cannot be loaded",
    "internal error of VESPER's agent",
    "VESPER is not installed correctly",
)


def read_document() -> str:
    return (PROJECT / "docs/troubleshooting.md").read_text().replace("\\|", "|")


def texts_of(node: ast.AST) -> str:
    """Return the text that a string literal makes, without what is put into it."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    values = [part.value for part in parts if isinstance(part, ast.Constant)]
    return "".join(value for value in values if isinstance(value, str))


CODE = "\n".join(
    texts_of(node)
    for path in SOURCES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Constant | ast.JoinedStr)
)


@pytest.mark.parametrize("text", TEXTS)
def test_each_degraded_text_has_its_entry(text: str) -> None:
    assert text in read_document()
    assert text in CODE


@pytest.mark.parametrize("silence", Silence)
def test_each_silence_has_its_entry(silence: Silence) -> None:
    assert silence.value in read_document()


def constant_parts(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def says_degraded(call: ast.Call) -> bool:
    """Whether a call makes a degraded answer: an exit with that code, or one unwatched domain."""
    names = [getattr(arg, "attr", getattr(arg, "id", "")) for arg in call.args]
    made = getattr(call.func, "id", getattr(call.func, "attr", ""))
    return any(str(name).endswith("DEGRADED") for name in names) or made == "Watching"


def degraded_texts() -> Iterator[tuple[str, str]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and says_degraded(node):
                text = "".join(constant_parts(node))
                if len(text) > 24:  # else it only puts texts of others together
                    yield f"{path.relative_to(PROJECT)}:{node.lineno}", text


def test_no_degraded_answer_is_unknown_here() -> None:
    texts = list(degraded_texts())
    assert len(texts) > 4
    assert [where for where, text in texts if not any(known in text for known in TEXTS)] == []
