# SPDX-License-Identifier: GPL-2.0-or-later
"""Parses what only some actions ask ``xl``; no monitor imports it."""

from __future__ import annotations

import json
import os
import re

from vesper_monitor.hypervisor.xl_list import parse_sizes as listed_sizes
from vesper_monitor.ocf.toolstack import ToolstackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["explain_immovable", "is_restarted_by_xl", "parse_disks", "parse_memory", "parse_sizes"]

#: Bytes of a log's end that are looked at.
TAIL_BYTES = 16384


def parse_sizes(text: str) -> dict[str, tuple[int, int]]:
    """Parse ``xl list``: see :func:`vesper_monitor.hypervisor.xl_list.parse_sizes`.

    :raises ToolstackError: this is no such list.
    """
    try:
        return listed_sizes(text)
    except ValueError as error:
        raise ToolstackError(str(error)) from None


def parse_disks(text: str) -> list[str]:
    """Return the device numbers that ``xl block-list`` shows."""
    columns = (line.split() for line in text.splitlines())
    return [words[0] for words in columns if words and words[0].isdecimal()]


def parse_memory(text: str) -> tuple[int, int]:
    """Return all and free MiB of the host, by ``xl info``.

    :raises ToolstackError: it does not say so.
    """
    known = _parse_info(text)
    try:
        return int(known["total_memory"]), int(known["free_memory"])
    except (KeyError, ValueError) as error:
        raise ToolstackError(f"xl info does not show the host's memory: {error}") from None


def explain_immovable(listed: str, info: Callable[[], str]) -> str:
    """Return why a domain cannot be migrated live; empty: no reason is known.

    :param listed: what ``xl list -l NAME`` says.
    :param info: runs ``xl info``.
    """
    config = _parse_config(listed)
    if config is None:
        return ""  # not understood: xl itself will say
    c_info, b_info = config.get("c_info"), config.get("b_info")
    # A libxl_defbool is a text in JSON.
    if isinstance(b_info, dict) and b_info.get("disable_migrate") in (True, "True"):
        return "its configuration has nomigrate=1"
    if not isinstance(c_info, dict) or c_info.get("type") != "pv":
        return ""
    capabilities = _parse_info(info()).get("virt_caps", "").split()
    # Log-dirty mode of a PV domain is done by shadow paging, which Debian's
    # Xen 4.17 is built without ("Failed to enable logdirty: 95"). An xl too
    # old to name "shadow" does not name "pv" either.
    if "pv" in capabilities and "shadow" not in capabilities:
        return (
            "a PV guest needs shadow paging, which this Xen lacks; use type=pvh or set "
            "allow-migrate=false"
        )
    return ""


def _parse_config(listed: str) -> dict[str, Any] | None:
    try:
        domains = json.loads(listed[listed.index("[") :])
        config = domains[0]["config"]
    except (ValueError, LookupError, TypeError):
        return None
    return config if isinstance(config, dict) else None


def _parse_info(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def is_restarted_by_xl(log: str, number: str) -> bool:
    """Whether xl noted that it starts a domain again whose guest has shut down.

    The process of xl's that follows a domain notes that before it does anything
    (handle_domain_death() in tools/xl/xl_vmcontrol.c, 4.17).

    :param log: path of xl's log of the domain; there need be none.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode(errors="replace")
    except OSError:
        return False
    # A number comes back after a boot of the host: the last one counts.
    shut = rf"^Domain {re.escape(number)} has shut down, .*\nAction for shutdown .* is (\S+)$"
    noted = re.findall(shut, text, re.M)
    return bool(noted) and noted[-1] in ("restart", "rename-restart", "coredump-restart")
