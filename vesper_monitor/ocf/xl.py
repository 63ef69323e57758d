# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's toolstack ``xl`` as the OCF agent uses it: bounded, and never wrong.

A domain counts as gone only where ``xl list`` has listed all domains and it
was not among them.  All else (no answer, an error) is
:class:`~vesper_monitor.ocf.toolstack.ToolstackError`: not known.
"""

from __future__ import annotations

import os

from vesper_monitor.domain_state import DomainState
from vesper_monitor.ocf.toolstack import ToolstackError, ToolstackMissing, run, spawn
from vesper_monitor.xl_list import rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.toolstack import Background

__all__ = ["Xl", "parse_list"]

XL = "xl"


def parse_list(text: str, name: str) -> DomainState:
    """The state of a domain by the output of ``xl list`` for all domains.

    Of several domains of one name (one may still be dying) the one that lives
    counts.

    :raises ToolstackError: this is no such list.
    """
    try:
        domains = rows(text)
    except ValueError as error:
        raise ToolstackError(str(error)) from None
    found = DomainState.GONE
    for listed, _, state in domains:
        if listed != name:
            continue
        if state is not DomainState.DYING:
            return state
        found = state
    return found


class Xl:
    """See :class:`~vesper_monitor.ocf.toolstack.Toolstack`.

    :param root: of the file system in which to look for signs of Xen.
    """

    name = XL

    def __init__(self, root: str = "/") -> None:
        self._root = root

    def absent(self) -> bool:
        """Whether this kernel certainly does not run on Xen.

        Without a sysfs there is no telling: then not.
        """
        if os.path.isdir(os.path.join(self._root, "proc/xen")):
            return False
        try:
            with open(os.path.join(self._root, "sys/hypervisor/type")) as file:
                return file.read().strip() != "xen"
        except OSError:
            return os.path.isdir(os.path.join(self._root, "sys/kernel"))

    def state(self, name: str, limit: float) -> DomainState:
        try:
            code, text = run([XL, "list"], limit)
        except ToolstackMissing:
            if self.absent():
                return DomainState.GONE
            raise
        if code == 0:
            return parse_list(text, name)
        if self.absent():
            return DomainState.GONE
        raise ToolstackError(f"xl list: exit status {code}: {_last_line(text)}")

    def create(self, config: str, name: str, limit: float) -> None:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        code, text = run([XL, "create", config, f'name="{quoted}"'], limit)
        if code != 0:
            raise ToolstackError(
                f"xl create {config}: exit status {code}: {_last_line(text)}; "
                f"see /var/log/xen/xl-{name}.log"
            )

    def shutdown(self, name: str) -> Background:
        return spawn([XL, "shutdown", name])

    def destroy(self, name: str, limit: float) -> None:
        code, text = run([XL, "destroy", name], limit)
        if code != 0:
            raise ToolstackError(f"xl destroy {name}: exit status {code}: {_last_line(text)}")


def _last_line(text: str) -> str:
    """The line of an error message that says the most: the first error, if marked."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if "error" in line.lower()]
    return (marked or lines or ["no message"])[0 if marked else -1]
