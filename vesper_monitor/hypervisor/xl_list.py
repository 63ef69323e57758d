# SPDX-License-Identifier: GPL-2.0-or-later
"""Parses the output of ``xl list``, for the agent and the Xen transport.

The agent must start fast, so this module imports only the domain states.
"""

from __future__ import annotations

from vesper_monitor.hypervisor.domain_state import DomainState

__all__ = ["parse_flags", "parse_rows", "parse_sizes"]


def parse_rows(text: str) -> list[tuple[str, str, DomainState]]:
    """Return (name, id, state) of each domain, in the order of the list.

    Columns: name (may hold blanks), id, memory, VCPUs, ``rbpscd`` flags, time.

    :raises ValueError: the text is not such a list, or is incomplete.
    """
    return [
        (columns[0].strip(), columns[1], _parse_state(columns[4]))
        for columns in _split_columns(text)
    ]


def parse_flags(text: str) -> dict[str, str]:
    """Return the flags of each domain by id, as :func:`parse_rows` reads them.

    :raises ValueError: as :func:`parse_rows`.
    """
    return {columns[1]: columns[4] for columns in _split_columns(text)}


def parse_sizes(text: str) -> dict[str, tuple[int, int]]:
    """Return memory (MiB) and virtual CPUs of each domain by name, without Domain-0.

    :raises ValueError: as :func:`parse_rows`.
    """
    return {
        columns[0].strip(): (int(columns[2]), int(columns[3]))
        for columns in _split_columns(text)
        if columns[1] != "0"
    }


def _split_columns(text: str) -> list[list[str]]:
    """Split the lines of a complete list.

    A line that is not understood is an error, since its domain may run. It was cut
    off, or libxl has written a message into the list.
    """
    lines = text.split("\n")
    while lines and not lines[0].startswith("Name "):
        del lines[0]  # warnings of libxl
    if not lines:
        raise ValueError(f"xl list: this is not a list of domains: {text[:120]!r}")
    if lines.pop() or len(lines) < 2:  # Domain-0 at least
        raise ValueError(f"xl list: the list was cut off: {text[-120:]!r}")
    found = []
    for line in lines[1:]:
        columns = line.rsplit(None, 5)
        numbers = (*columns[1:4], columns[5].replace(".", "")) if len(columns) == 6 else ("",)
        if not all(map(str.isdecimal, numbers)) or len(columns[4]) != 6:
            raise ValueError(f"xl list: this line is not understood: {line[:120]!r}")
        found.append(columns)
    return found


def _parse_state(flags: str) -> DomainState:
    """Return the state. Flags: ``rbps``, shutdown reason, ``d`` (tools/xl/xl_list.c, 4.17).

    The shutdown reasons: ``-`` power-off, ``r`` reboot, ``s`` suspend, ``c`` crash, ``w``
    watchdog, ``S`` soft reset.
    """
    shutdown, why = flags[3] == "s", flags[4]
    if flags[5] == "d":
        return DomainState.DYING
    if why in "cw":
        return DomainState.CRASHED
    if flags[2] == "p" or why == "s":  # it is being saved or migrated
        return DomainState.PAUSED
    return DomainState.SHUTDOWN if shutdown else DomainState.RUNNING
