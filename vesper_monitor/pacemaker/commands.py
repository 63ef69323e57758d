# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of Pacemaker: report a failure without a monitor, set an attribute, read its status.

``crm_resource --fail`` is a blunt tool (Pacemaker 2.1).  For an unknown resource it makes
an orphan, whose failed stop gets the node fenced.  It hits whatever has that name by then.
It is acknowledged before the controller has acted on it, so it can be lost.  On a
Pacemaker Remote node the controller refuses it, and the command still exits 0.

So the cluster is asked first whether this resource runs on this node, is managed and has
an agent of VESPER (an administrator may have changed that).  Afterwards it is asked whether
the failure has arrived.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vesper_monitor.util import async_subprocess
from vesper_monitor.util.errors import VesperError
from vesper_monitor.util.xml_parser import parse_xml

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

__all__ = [
    "DegradedRecord",
    "PacemakerError",
    "ResourceState",
    "degraded_records",
    "own_name",
    "parse_crm_mon",
    "parse_status",
    "remove_record",
    "report_failure",
    "set_attribute",
]

_log = logging.getLogger(__name__)

#: OCF 1.1's exit status "degraded", as the cluster's status has it.
DEGRADED = "190"
#: How the name of a last failure in a resource's history ends.
LAST_FAILURE = "_last_failure_0"
#: In the types of this project's agents.
PROVIDER = ":vesper:"
#: s for one command; under emulation a process start takes half a second.
COMMAND_TIMEOUT_S = 20.0
#: s after which the failure must show.
VERIFY_TIMEOUT_S = 10.0
#: s between two looks whether it does.
VERIFY_PAUSE_S = 0.5
#: Tries, in about two minutes; after that the fault still waits for the next monitor.
MAX_TRIES = 8
#: s between two tries: 1, 2, 4 ... up to that.
MAX_PAUSE_S = 30.0


class PacemakerError(VesperError):
    """A command failed, or its answer was not understood."""


class ReportImpossibleError(PacemakerError):
    """Pacemaker cannot be told in this way; another try would not help."""


@dataclass(frozen=True)
class ResourceState:
    """A resource on one node, as ``crm_mon`` shows it."""

    active: bool  #: runs there, by Pacemaker's own knowledge
    managed: bool
    fail_count: int
    agent: str = ""  #: its type, as ``ocf:vesper:XenVM``
    remote: bool = False  #: the node is one of Pacemaker Remote


@dataclass(frozen=True)
class DegradedRecord:
    """A degraded monitor that the cluster's status keeps as a last failure."""

    resource: str  #: as the history calls it
    node: str
    changed: str  #: when it was, as the status has it
    over: bool  #: a later monitor of the same kind has succeeded

    def belongs_to(self, resource: str, node: str) -> bool:
        """Tell whether the record is of a resource on a node.

        :param resource: as the agent knows it; instances of a clone have ``:N``.
        """
        return node == self.node and self.resource in (resource, resource.partition(":")[0])


async def report_failure(
    resource: str,
    node: str | None,
    wanted: Callable[[], bool],
    injecting: Callable[[], None] = lambda: None,
) -> bool:
    """Tell Pacemaker that a resource on this node has failed.

    :param node: this node's name in the cluster; None: ask.
    :param wanted: asked before each step; False ends it (the activation
        was stopped, a monitor was told, an operator cleared the fault).
    :param injecting: called right before the failure is sent.
    :returns: whether the failure shows in the cluster's status.
    """
    pause = 1.0
    for attempt in range(1, MAX_TRIES + 1):
        if not wanted():
            return False
        try:
            if await _try_to_report(resource, node, wanted, injecting):
                return True
            why = "it did not show in the cluster's status"
        except ReportImpossibleError as error:
            _log.warning("%s: Pacemaker is not told of the failure: %s", resource, error)
            return False
        except PacemakerError as error:
            why = str(error)
        if not wanted():
            return False
        _log.warning(
            "%s: telling Pacemaker of the failure, try %d of %d: %s",
            resource,
            attempt,
            MAX_TRIES,
            why,
        )
        await asyncio.sleep(pause)
        pause = min(pause * 2, MAX_PAUSE_S)
    _log.error(
        "%s: Pacemaker did not take the failure; the next monitor operation will be told. "
        "To act now: crm_resource --restart --resource %s",
        resource, resource,
    )  # fmt: skip
    return False


async def set_attribute(name: str, value: str | None) -> None:
    """Set a transient attribute of this node; None: delete it.

    :raises PacemakerError:
    """
    # Pacemaker's tools run in the C locale, and refuse all else (exit 64).
    if value is None:
        await _run_command("attrd_updater", "--delete", "--name", ascii_only(name))
    else:
        await _run_command(
            "attrd_updater", "--name", ascii_only(name), "--update", ascii_only(value)
        )


def ascii_only(text: str) -> str:
    """Return a text with ``\\xf6`` in place of a character that is not ASCII."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


async def own_name() -> str:
    """Return this node's name in the cluster.

    :raises PacemakerError:
    """
    return (await _run_command("crm_node", "-n")).strip()


async def degraded_records() -> list[DegradedRecord]:
    """Return the records of degraded monitors of this project's agents, on all nodes.

    :raises PacemakerError:
    """
    return parse_status(await _run_command("cibadmin", "--query", "--scope", "status"))


def parse_status(text: str) -> list[DegradedRecord]:
    """Return the records of degraded monitors in the CIB's status section.

    :raises PacemakerError: the text is not XML.
    """
    try:
        root = parse_xml(text)
    except ValueError as error:
        raise PacemakerError(f"cibadmin: {error}") from error
    found = []
    for state in root.iter("node_state"):
        for history in state.iter("lrm_resource"):
            if history.get("provider") != PROVIDER.strip(":"):
                continue
            entries = list(history.iter("lrm_rsc_op"))
            for entry in entries:
                if entry.get("rc-code") != DEGRADED or not _is_last_failure(entry):
                    continue
                resource, node = str(history.get("id")), str(state.get("uname"))
                changed = str(entry.get("last-rc-change"))
                if "'" in resource + node + changed:  # ends a text of XPath
                    continue
                over = any(_is_success_after(other, entry) for other in entries)
                found.append(DegradedRecord(resource, node, changed, over))
    return found


def _is_last_failure(entry: Element) -> bool:
    return entry.get("operation") == "monitor" and str(entry.get("id")).endswith(LAST_FAILURE)


def _is_success_after(entry: Element, failure: Element) -> bool:
    """Tell whether this is a later success of the monitor that was degraded."""
    if entry.get("rc-code") != "0" or entry.get("operation") != "monitor":
        return False
    if entry.get("interval") != failure.get("interval"):
        return False
    return _parse_count(entry.get("last-rc-change")) >= _parse_count(failure.get("last-rc-change"))


async def remove_record(record: DegradedRecord) -> None:
    """Remove a record from the CIB's status, unless it has changed meanwhile.

    The rest of the history stays, so nothing is probed or restarted.  The scheduler runs,
    and starts a monitor if it had taken this record for one that runs.

    :raises PacemakerError:
    """
    path = (
        f"/cib/status/node_state[@uname='{record.node}']/lrm/lrm_resources"
        f"/lrm_resource[@id='{record.resource}']"
        f"/lrm_rsc_op[@id='{record.resource}{LAST_FAILURE}'][@rc-code='{DEGRADED}']"
        f"[@last-rc-change='{record.changed}']"
    )
    await _run_command("cibadmin", "--delete", "--xpath", path)


async def _try_to_report(
    resource: str, node: str | None, wanted: Callable[[], bool], injecting: Callable[[], None]
) -> bool:
    node = node or await own_name()
    before = await _state_of_resource(resource, node)
    if not before.active:
        raise PacemakerError(f"Pacemaker does not know it as running on {node}")
    if PROVIDER not in before.agent:
        raise ReportImpossibleError(
            f"its agent is {before.agent} now; to end the watch: vesper deactivate VM"
        )
    if before.remote:
        raise ReportImpossibleError(
            f"{node} is a node of Pacemaker Remote; its next monitor will be told"
        )
    if not before.managed:
        raise PacemakerError("it is not managed now (maintenance)")
    if not wanted():
        return False
    injecting()
    await _run_command("crm_resource", "--fail", "--resource", resource, "--node", node)
    end = asyncio.get_running_loop().time() + VERIFY_TIMEOUT_S
    while asyncio.get_running_loop().time() < end:
        now = await _state_of_resource(resource, node)
        if now.fail_count > before.fail_count or not now.active:
            return True
        await asyncio.sleep(VERIFY_PAUSE_S)
    return False


async def _read_cluster_status() -> str:
    """Return the cluster's status, for :func:`parse_crm_mon`."""
    return await _run_command("crm_mon", "--one-shot", "--output-as=xml")


async def _state_of_resource(resource: str, node: str) -> ResourceState:
    return parse_crm_mon(await _read_cluster_status(), resource, node)


def parse_crm_mon(text: str, resource: str, node: str) -> ResourceState:
    """Return the state of a resource on a node.

    :param text: output of ``crm_mon --output-as=xml``.
    :param resource: as the agent knows it; instances of a clone have ``:N``.
    :raises PacemakerError: the text is not XML.
    """
    try:
        root = parse_xml(text)
    except ValueError as error:
        raise PacemakerError(f"crm_mon: its output is {error}") from error
    active = managed = False
    agent = ""
    for item in root.iter("resource"):
        if item.get("id") not in (resource, resource.partition(":")[0]):
            continue
        here = any(element.get("name") == node for element in item.iter("node"))
        if here and item.get("active") == "true" and item.get("orphaned") != "true":
            active = True
            managed = item.get("managed") == "true"
            agent = item.get("resource_agent") or ""
    remote = any(
        item.get("name") == node and item.get("type") == "remote"
        for item in root.iterfind("nodes/node")
    )
    fail_count = 0
    for history in root.iterfind("node_history/node"):
        if history.get("name") != node:
            continue
        for item in history.iter("resource_history"):
            if item.get("id") in (resource, resource.partition(":")[0]):
                fail_count = max(fail_count, _parse_count(item.get("fail-count")))
    return ResourceState(active, managed, fail_count, agent, remote)


def _parse_count(text: str | None) -> int:
    if text == "INFINITY":
        return 1_000_000
    return int(text) if text is not None and text.isdecimal() else 0


async def _run_command(*command: str) -> str:
    """Run a command, and return its standard output.

    :raises PacemakerError: it is not installed, failed, or took too long.
    """
    try:
        code, output, errors = await async_subprocess.run_command(*command, limit=COMMAND_TIMEOUT_S)
    except TimeoutError:
        raise PacemakerError(
            f"{' '.join(command)}: not done after {COMMAND_TIMEOUT_S:.0f} s"
        ) from None
    except OSError as error:
        raise PacemakerError(f"{command[0]}: {error.strerror}") from error
    if code != 0:
        said = errors.strip() or output.strip()
        raise PacemakerError(f"{' '.join(command)}: exit {code}: {said[-300:]}")
    return output
