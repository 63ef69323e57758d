# SPDX-License-Identifier: GPL-2.0-or-later
"""Removes records of degraded monitors that are over from Pacemaker's status.

Pacemaker 2.1 keeps a degraded result as a last failure (``rsc_last_failure_0``)
when the next monitors succeed.  That has two effects:

- ``crm_mon`` goes on showing it.  A ``crm_resource --cleanup`` forgets the
  resource's whole history on that node; if the VM came there by a live
  migration, Pacemaker then takes that for half done, and restarts the VM.
- After maintenance mode, which cancels monitors, the scheduler takes the
  record for a monitor that runs (it finds the operation's key in the history),
  and starts none: no fault would be reported any more.

So that one record is removed, and nothing else of the history, once Pacemaker
has heard of a monitor that succeeded after it, if the resource has been
stopped here, or if no monitor comes any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping

from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.pacemaker import commands
from vesper_monitor.pacemaker.commands import DegradedRecord, PacemakerError

__all__ = ["keep_monitored"]

_log = logging.getLogger(__name__)

#: s between two looks at who may have such a record.
LOOK_PAUSE_S = 15.0
#: s after which all are looked at again: a node that joins the cluster anew
#: writes what its controller remembers, a removed record too.
LOOK_AGAIN_S = 600.0

Query = Callable[[], Awaitable[list[DegradedRecord]]]
OwnName = Callable[[], Awaitable[str]]
Remove = Callable[[DegradedRecord], Awaitable[None]]


async def keep_monitored(
    activations: Callable[[], Iterable[ResourceActivation]],
    left: MutableMapping[str, str],
    query: Query = commands.degraded_records,
    own_name: OwnName = commands.own_name,
    remove: Remove = commands.remove_record,
) -> None:
    """Remove such records. Never returns.

    :param left: resources that were stopped here, and this node's name; emptied.
    """
    loop = asyncio.get_running_loop()
    said = ""
    all_again = loop.time() + LOOK_AGAIN_S
    while True:
        await asyncio.sleep(LOOK_PAUSE_S)
        if loop.time() >= all_again:
            all_again = loop.time() + LOOK_AGAIN_S
            for activation in activations():
                activation.turns.may_be_on_record, activation.turns.said_well = True, False
        try:
            await _look_for_stalled(activations, left, query, own_name, remove)
            said = ""
        except PacemakerError as error:
            if str(error) != said:
                said = str(error)
                _log.info("cannot tell whether degraded monitors are on record: %s", said)


async def _look_for_stalled(
    activations: Callable[[], Iterable[ResourceActivation]],
    left: MutableMapping[str, str],
    query: Query,
    own_name: OwnName,
    remove: Remove,
) -> None:
    """Remove records that are over, or let Pacemaker hear that. :raises PacemakerError:"""
    loop = asyncio.get_running_loop()

    def wanted(activation: ResourceActivation) -> bool:
        if activation.is_unmonitored(loop.time()):
            return True
        return activation.turns.may_be_on_record and activation.is_well

    asked = [activation for activation in activations() if wanted(activation)]
    gone = dict(left)
    if not asked and not gone:
        return
    records = await query()
    for resource, node in gone.items():
        for record in records:
            if resource in left and record.belongs_to(resource, node):
                await remove(record)
        left.pop(resource, None)
    for activation in asked:
        # No monitor has told it yet where an earlier daemon has begun the activation.
        activation.node = activation.node or await own_name()
        mine = [r for r in records if r.belongs_to(activation.record.resource, activation.node)]
        if not mine:
            activation.turns.may_be_on_record = False
        for record in mine:
            await _settle_record(activation, record, wanted, remove)


async def _settle_record(
    activation: ResourceActivation,
    record: DegradedRecord,
    wanted: Callable[[ResourceActivation], bool],
    remove: Remove,
) -> None:
    """Remove a record, or see to it that Pacemaker hears that it is over."""
    if not wanted(activation):  # it has changed meanwhile
        return
    resource = activation.record.resource
    if activation.is_well and not record.over:
        # Its monitor says so now, and not when its time is up.
        if not activation.turns.said_well:
            activation.say_well()
        return
    was_well = activation.is_well
    await remove(record)
    if was_well:
        _log.info("%s: is well again; its degraded monitor is no longer on record", resource)
    else:
        _log.warning(
            "%s: Pacemaker ran no monitor any more: it took a degraded result from before "
            "maintenance mode for a running monitor; that record is removed", resource,
        )  # fmt: skip
