# SPDX-License-Identifier: GPL-2.0-or-later
"""List the domains of a libvirt driver without domstats (LXC, Xen)."""

from __future__ import annotations

from vesper_monitor.ocf.toolstack import ToolstackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.libvirt.virsh_call import VirshCall

__all__ = ["list_states"]

#: virDomainState by its number, as ``virsh domstate`` calls it.
STATE_NAMES = (
    "no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended",
)  # fmt: skip
RUNNING = 1
PAUSED = 3
SHUT_OFF = 5


def list_states(virsh: VirshCall, limit: float) -> dict[str, tuple[int, int]]:
    """Return state and reason by name, as
    :func:`~vesper_monitor.ocf.libvirt.virsh_states.parse_stats` does.

    Such a driver knows no reasons: they are 0.  Every domain that is active counts
    as running at first, so that none is missed that changes its state meanwhile.

    :param limit: seconds for each command.
    :raises ToolstackError: not known.
    """
    found = dict.fromkeys(_list_names(virsh, limit, "--inactive"), SHUT_OFF)
    found |= dict.fromkeys(_list_names(virsh, limit), RUNNING)
    found |= dict.fromkeys(_list_names(virsh, limit, "--state-paused"), PAUSED)
    for name in _list_names(virsh, limit, "--all", "--state-other", "--state-shutoff"):
        if found.get(name) == SHUT_OFF:
            continue
        try:
            found[name] = _ask_state(virsh, name, limit)
        except ToolstackError:
            if name in _list_names(virsh, limit):
                raise
            found.pop(name, None)  # it has ended meanwhile
    return {name: (state, 0) for name, state in found.items()}


def _list_names(virsh: VirshCall, limit: float, *words: str) -> list[str]:
    return [name for name in virsh.run_virsh(limit, "list", "--name", *words).splitlines() if name]


def _ask_state(virsh: VirshCall, name: str, limit: float) -> int:
    """:raises ToolstackError: not known."""
    said = virsh.do_to(name, limit, "domstate").strip()
    if said not in STATE_NAMES:
        raise ToolstackError(f"virsh domstate {name}: not understood: {said[:80]!r}")
    return STATE_NAMES.index(said)
