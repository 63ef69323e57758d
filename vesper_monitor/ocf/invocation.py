# SPDX-License-Identifier: GPL-2.0-or-later
"""One call of an agent, by the OCF Resource Agent API.

How Pacemaker calls (action, environment), and how an agent answers (exit
code, exit reason).  Source: Open Cluster Framework, Resource Agent API 1.1,
and Pacemaker Explained for ``CRM_meta_*`` and the code 190.

Every monitor of every resource imports this: the standard library only, and
little of it (no dataclasses, no typing, no subprocess at the top).
"""

from __future__ import annotations

import enum
import os
import time

from vesper_monitor.ocf.fast_common import log_line, set_exit_reason, state_dir, state_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["OcfCode", "OcfExit", "OcfInvocation", "finish_action", "log_line"]


class OcfCode(enum.IntEnum):
    """Exit codes of an agent."""

    OCF_SUCCESS = 0
    OCF_ERR_GENERIC = 1
    OCF_ERR_ARGS = 2
    OCF_ERR_UNIMPLEMENTED = 3
    OCF_ERR_PERM = 4
    OCF_ERR_INSTALLED = 5  #: this node lacks something: Pacemaker tries another node
    OCF_ERR_CONFIGURED = 6  #: wrong on every node: Pacemaker gives up
    OCF_NOT_RUNNING = 7
    OCF_DEGRADED = 190  #: runs, but not as it should: shown, not recovered


class OcfExit(Exception):
    """Ends an action with another result than success.

    :param reason: one sentence that an operator can act on; ``crm_mon`` shows it.
    """

    def __init__(self, code: OcfCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


#: Seconds that an action may take where Pacemaker does not say (a call by hand).
DEFAULT_TIMEOUTS_S = {
    "start": 60.0,
    "stop": 90.0,
    "monitor": 30.0,
    "migrate_to": 120.0,
    "migrate_from": 120.0,
}


class OcfInvocation:
    """One call: action, resource, parameters, and the time there is.

    :param environ: as Pacemaker sets it.
    :param age: seconds since this process was started; on an emulated host that
        alone takes a second.
    :param said: the answer that vesperd gave this monitor already; empty: none.
    """

    def __init__(
        self, action: str, environ: Mapping[str, str], age: float = 0.0, said: bytes = b""
    ) -> None:
        self.action = action
        self.environ = environ
        self.said = said
        self.parameters = {
            key.removeprefix("OCF_RESKEY_"): value
            for key, value in environ.items()
            if key.startswith("OCF_RESKEY_") and not key.startswith("OCF_RESKEY_CRM_meta_")
        }
        #: the resource's id
        self.resource = environ.get("OCF_RESOURCE_INSTANCE") or "default"
        #: seconds between two recurring monitors; 0 for all else
        self.interval = _parse_milliseconds(environ.get("OCF_RESKEY_CRM_meta_interval"), 0.0)
        #: seconds, the whole of it; None if Pacemaker did not say
        self.given_timeout = (
            _parse_milliseconds(environ.get("OCF_RESKEY_CRM_meta_timeout"), 0.0) or None
        )
        self.timeout = self.given_timeout or DEFAULT_TIMEOUTS_S.get(action, 30.0)
        self.deadline = time.monotonic() - age + self.timeout
        #: the cluster's name of this node
        self.node = environ.get("OCF_RESKEY_CRM_meta_on_node") or os.uname().nodename
        #: name of the node to which migrate_to migrates
        self.migrate_target = environ.get("OCF_RESKEY_CRM_meta_migrate_target") or ""
        self.check_level = _parse_whole_number(
            environ.get("OCF_CHECK_LEVEL") or environ.get("OCF_RESKEY_OCF_CHECK_LEVEL")
        )
        self.state_dir = state_dir(environ)

    def seconds_left(self) -> float:
        """Return the seconds until Pacemaker ends this call. May be negative."""
        return self.deadline - time.monotonic()

    def limit_time(self, most: float = float("inf")) -> float:
        """Return the seconds that an outside call may take: what is left, less a margin."""
        margin = min(2.0, self.timeout / 10)
        return max(0.5, min(most, self.seconds_left() - margin))

    def state_file(self, kind: str) -> str:
        """Return the path of a file of this resource that lasts until the node boots."""
        return state_file(self.state_dir, self.resource, kind)

    def remember_text(self, kind: str, text: str) -> None:
        """Keep a text until the node boots; empty: forget it. Never fails."""
        path = self.state_file(kind)
        try:
            if not text:
                if os.path.exists(path):
                    os.unlink(path)
                return
            os.makedirs(self.state_dir, exist_ok=True)
            # Pacemaker may kill this process at any moment: half a text is never there.
            new = f"{path}.new"
            with open(new, "wb") as file:
                file.write(text.encode(errors="surrogateescape"))
            os.rename(new, path)
        except OSError as error:
            log_line(f"{path}: {error.strerror}")

    def remembered_text(self, kind: str) -> str:
        """Return the text of :meth:`remember_text`; empty: there is none."""
        try:
            with open(self.state_file(kind), "rb") as file:
                return file.read(4096).decode(errors="surrogateescape")
        except OSError:
            return ""

    def read_parameter(self, name: str) -> str:
        """Return the value, without blanks around it; empty if not set."""
        return self.parameters.get(name, "").strip()


def _parse_milliseconds(text: str | None, default: float) -> float:
    try:
        return int(text or "") / 1000
    except ValueError:
        return default


def _parse_whole_number(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError:
        return 0


def finish_action(action: Callable[[], None]) -> int:
    """Run the action, report its exit reason, and return its exit code.

    The script (``ocf/XenVM``) handles all other exceptions: it does the action without
    this library, which may lack a part.
    """
    try:
        action()
    except OcfExit as end:
        set_exit_reason(end.reason)
        return end.code
    return OcfCode.OCF_SUCCESS
