# SPDX-License-Identifier: GPL-2.0-or-later
"""What operators wish of VMs by ``vesper activate`` and ``vesper deactivate``.

The journal keeps these wishes over a restart of vesperd.  An operator may act
before the journal can be read: that wish is then newer than the journal's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec

from vesper_monitor.daemon.background_tasks import BackgroundTasks
from vesper_monitor.journal.journal import Journal, JournalError, Remembered
from vesper_monitor.journal.writer import RETRY_LAST_S, JournalWriter

__all__ = ["OperatorWishes"]

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")


class OperatorWishes:
    """Which VMs operators want watched, and which guests they want left alone.

    :ivar activated: by VM: the probes that an operator wants there.
    :ivar deactivated: VMs whose guests are left alone until ``activate``, or until a
        resource starts the VM.
    """

    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal
        self.activated: dict[str, tuple[str, ...]] = {}
        self.deactivated: set[str] = set()
        #: VMs that are to be watched again, said before the journal was read
        self._allowed_early: set[str] = set()
        self._is_restored = False
        #: VMs whose wishes the journal has not taken yet
        self._unwritten: set[str] = set()
        self._writing = BackgroundTasks()
        self._retrying: asyncio.Task[None] | None = None

    async def activate_vm(self, vm: str, probes: tuple[str, ...] | None) -> None:
        """Set which probes an operator wants in a VM, or None if the wish is over."""
        if probes is None:
            self.activated.pop(vm, None)
        else:
            self.activated[vm] = probes
        await self._write(vm, Journal.set_activation, vm, probes)

    def deactivate_vm(self, vm: str) -> asyncio.Task[None]:
        """Leave a VM's guest alone from now on.

        :returns: the write to the journal, which is finished even if vesperd is stopped.
        """
        self.activated.pop(vm, None)
        self.deactivated.add(vm)
        self._allowed_early.discard(vm)
        return self._writing.spawn_task(self._write(vm, Journal.set_deactivation, vm, True))

    def allow_watching(self, vm: str) -> None:
        """Watch a VM again: a resource has started it, or an operator has activated it."""
        if not self._is_restored:
            self._allowed_early.add(vm)
        if vm in self.deactivated:
            self.deactivated.discard(vm)
            self._spawn_deactivation_write(vm, False)

    def restore_wishes(self, found: Remembered) -> None:
        """Add the journal's wishes. What operators said since the start counts more."""
        self._is_restored = True
        self.deactivated |= found.deactivations - self._allowed_early
        for vm in self.deactivated ^ found.deactivations:
            self._spawn_deactivation_write(vm, vm in self.deactivated)
        for vm, probes in self.activated.items():
            self._writing.spawn_task(self._write(vm, Journal.set_activation, vm, probes))
        restored = {vm: p for vm, p in found.activations.items() if vm not in self.deactivated}
        self.activated = restored | self.activated

    def cancel_retries(self) -> None:
        """Write no more wishes that the journal has refused."""
        if self._retrying is not None:
            self._retrying.cancel()

    async def close(self) -> None:
        """Return when the writes under way have ended."""
        self.cancel_retries()
        await self._writing.wait_for_all()

    def _spawn_deactivation_write(self, vm: str, is_deactivated: bool) -> None:
        self._writing.spawn_task(self._write(vm, Journal.set_deactivation, vm, is_deactivated))

    async def _write(
        self, vm: str, write: Callable[Concatenate[Journal, _P], None], /,
        *args: _P.args, **kwargs: _P.kwargs,
    ) -> None:  # fmt: skip
        try:
            await self._journal.run_for(vm, write, *args, **kwargs)
        except JournalError as error:
            _log.warning("%s: vesperd will not remember this after a restart yet: %s", vm, error)
            if not self._unwritten:
                retry = self._write_again()
                self._retrying = asyncio.get_running_loop().create_task(retry)
            self._unwritten.add(vm)

    async def _write_again(self) -> None:
        """Write what the journal has refused, until it takes it."""
        while self._unwritten:
            await asyncio.sleep(RETRY_LAST_S)
            vm = next(iter(self._unwritten))
            run, probes = self._journal.run_for, self.activated.get(vm)
            if not self._is_restored:
                continue
            with contextlib.suppress(JournalError):
                await run(vm, Journal.set_activation, vm, probes)
                await run(vm, Journal.set_deactivation, vm, vm in self.deactivated)
                self._unwritten.discard(vm)
