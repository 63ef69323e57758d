# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``xl list`` prints: read by the agent and by the Xen transport alike.

The agent must start fast: no import but the domain's states.
"""

from __future__ import annotations

from vesper_monitor.hypervisor.domain_state import DomainState

__all__ = ["parse_flags", "parse_rows", "parse_sizes"]


def parse_rows(text: str) -> list[tuple[str, str, DomainState]]:
    """(name, id, state) of each domain, as listed.

    Columns: name (may hold blanks), id, memory, VCPUs, ``rbpscd`` flags, time.

    :raises ValueError: this is no such list, or not all of it.
    """
    return [
        (columns[0].strip(), columns[1], _parse_state(columns[4]))
        for columns in _split_columns(text)
    ]


def parse_flags(text: str) -> dict[str, str]:
    """The flags of each domain by id, as :func:`parse_rows` reads them.

    :raises ValueError: this is no such list.
    """
    return {columns[1]: columns[4] for columns in _split_columns(text)}


def parse_sizes(text: str) -> dict[str, tuple[int, int]]:
    """Memory (MiB) and virtual CPUs of each domain by name, but for Domain-0.

    :raises ValueError: this is no such list.
    """
    return {
        columns[0].strip(): (int(columns[2]), int(columns[3]))
        for columns in _split_columns(text)
        if columns[1] != "0"
    }


def _split_columns(text: str) -> list[list[str]]:
    """Split the lines of a whole list.

    A line that is not understood may be a domain's that runs, so it is an
    error: it was cut off, or libxl has written a message into the list.
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
    """Flags: ``rbps``, why it has shut down, ``d`` (tools/xl/xl_list.c, 4.17).

    Why: ``-`` power-off, ``r`` reboot, ``s`` suspend, ``c`` crash, ``w``
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
