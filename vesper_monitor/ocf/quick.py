# SPDX-License-Identifier: GPL-2.0-or-later
"""A plain monitor of a VM whose kernel shows life to vesperd: well, and nothing else is needed.

Half of what such a monitor costs is the import of the rest of this library,
the other half the toolstack's command.  A sign of life of the last moment says
more than a toolstack: the domain's virtual CPUs take interrupts.  Everything
else is left to :mod:`vesper_monitor.ocf.agent`.
"""

from __future__ import annotations

import os

# Not socket: that brings enum and selectors, which take longer than the question.
from _socket import AF_UNIX, SOCK_STREAM, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["alive"]

#: Seconds for vesperd to answer; it need not ask anybody.
LIMIT = 1.0
#: What it says then.
ALIVE = b'{"ok": true, "alive": true}\n'


def alive(environ: Mapping[str, str]) -> bool:
    """Whether this is a plain monitor, and the resource's VM shows life here.

    The next recurring monitor is then the first, as after any plain one.
    """
    if (environ.get("OCF_RESKEY_CRM_meta_interval") or "0") != "0":
        return False
    if (environ.get("OCF_CHECK_LEVEL") or environ.get("OCF_RESKEY_OCF_CHECK_LEVEL") or "0") != "0":
        return False
    resource = environ.get("OCF_RESOURCE_INSTANCE") or ""
    if not resource.isprintable() or '"' in resource or "\\" in resource:
        return False
    if not _shows_life(environ.get("VESPER_SOCKET") or "/run/vesper/vesperd.sock", resource):
        return False
    folder = environ.get("HA_RSCTMP") or "/run/resource-agents"
    try:
        os.makedirs(folder, exist_ok=True)
        mark = f"{folder}/vesper-{resource.replace('/', '_')}.first"
        os.close(os.open(mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    return True


def _shows_life(path: str, resource: str) -> bool:
    connection = socket(AF_UNIX, SOCK_STREAM | os.O_CLOEXEC)
    try:
        connection.settimeout(LIMIT)
        connection.connect(path)
        connection.sendall(b'{"op": "alive", "resource": "%s"}\n' % resource.encode())
        answer = b""
        while len(answer) < len(ALIVE) and (more := connection.recv(256)):
            answer += more
    except OSError:
        return False
    finally:
        connection.close()
    return answer == ALIVE
