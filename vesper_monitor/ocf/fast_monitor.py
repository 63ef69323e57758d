# SPDX-License-Identifier: GPL-2.0-or-later
"""Two monitors that need nothing of the rest of this library, whose import costs most.

A plain one of a VM whose kernel shows life to vesperd: a sign of life of the
last moment says more than a toolstack, since the domain's virtual CPUs take
interrupts.

A recurring one with the same parameters as the last one, which left its question
to vesperd: this one repeats the question and waits.

Everything else is left to :mod:`vesper_monitor.ocf.agent`.
"""

from __future__ import annotations

import os
import time

# Not json, not socket: that brings re, enum and selectors.
from _json import scanstring
from _socket import AF_UNIX, SOCK_STREAM, socket

from vesper_monitor.ocf.fast_common import (
    AGAIN,
    DOMAIN,
    FIRST,
    begin_waiting,
    call_key,
    config_key,
    end_waiting,
    mark_first,
    process_age,
    set_exit_reason,
    state_dir,
    state_file,
    waiting_time,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["run_fast_monitor"]

#: Seconds for vesperd to answer; it need not ask anybody.
ANSWER_LIMIT_S = 1.0
#: What it says.
ALIVE = b'{"ok": true, "alive": true}\n'
FINE = b'{"ok": true, "result": "fine"}\n'
FAULT = b'{"ok": true, "result": "fault", "reason": "'
OCF_SUCCESS = 0
OCF_ERR_GENERIC = 1


def run_fast_monitor(environ: Mapping[str, str]) -> tuple[int | None, bytes]:
    """Do a monitor.

    :returns: its exit code, None if it takes more than this; and then vesperd's
        answer to a ``wait``, if there is one.
    """
    if (environ.get("OCF_CHECK_LEVEL") or environ.get("OCF_RESKEY_OCF_CHECK_LEVEL") or "0") != "0":
        return None, b""
    if (environ.get("OCF_RESKEY_CRM_meta_interval") or "0") == "0":
        return OCF_SUCCESS if _is_alive(environ) else None, b""
    answer = _wait_as_before(environ)
    if answer == FINE:
        return OCF_SUCCESS, b""
    if answer.startswith(FAULT):
        set_exit_reason(scanstring(answer.decode(errors="replace"), len(FAULT))[0])
        return OCF_ERR_GENERIC, b""
    return None, answer


def _is_alive(environ: Mapping[str, str]) -> bool:
    """Whether the domain that this resource runs shows life here.

    The next recurring monitor is then the first, as after any plain one.
    """
    folder, resource = state_dir(environ), environ.get("OCF_RESOURCE_INSTANCE") or ""
    try:
        with open(state_file(folder, resource, DOMAIN)) as file:
            name, ident, key = file.read(4096).split("\n")[:3]
    except (OSError, ValueError):
        return False
    # Parameter or file may name another domain now: that is for the whole agent.
    given = resource + name + ident
    if key != config_key(environ) or not given.isprintable() or '"' in given or "\\" in given:
        return False
    question = f'{{"op": "alive", "resource": "{resource}", "vm": "{name}", "domain": "{ident}"}}\n'
    if not ident or _ask_vesperd(environ, question.encode(), ANSWER_LIMIT_S) != ALIVE:
        return False
    mark_first(state_file(folder, resource, FIRST))
    return True


def _wait_as_before(environ: Mapping[str, str]) -> bytes:
    """Repeat the last monitor's question.

    :returns: vesperd's answer; empty: none, or it was not asked.
    """
    folder, resource = state_dir(environ), environ.get("OCF_RESOURCE_INSTANCE") or ""
    try:
        timeout = int(environ.get("OCF_RESKEY_CRM_meta_timeout") or "") / 1000
        with open(state_file(folder, resource, AGAIN)) as file:
            key, _, question = file.read().partition("\n")
    except (OSError, ValueError):
        return b""
    left = waiting_time(timeout) - process_age() - ANSWER_LIMIT_S
    if key != call_key(environ) or left < ANSWER_LIMIT_S:
        return b""
    if not os.path.exists(state_file(folder, resource, DOMAIN)):
        return b""  # another resource has its domain now
    mark = state_file(folder, resource, FIRST)
    if os.path.exists(mark):
        return b""
    begin_waiting(mark)
    try:
        return _ask_vesperd(
            environ, f'{question}, "timeout": {left:.3f}}}\n'.encode(), left + ANSWER_LIMIT_S
        )
    finally:
        end_waiting(mark)


def _ask_vesperd(environ: Mapping[str, str], question: bytes, limit: float) -> bytes:
    """Return the line that vesperd answers; empty: none within ``limit`` s."""
    end = time.monotonic() + limit
    connection = socket(AF_UNIX, SOCK_STREAM | os.O_CLOEXEC)
    try:
        _connect_to_vesperd(connection, environ.get("VESPER_SOCKET") or "/run/vesper/vesperd.sock")
        connection.sendall(question)
        answer = b""
        while not answer.endswith(b"\n"):
            connection.settimeout(max(0.001, end - time.monotonic()))
            more = connection.recv(65536)
            if not more:
                return b""
            answer += more
    except OSError:
        return b""
    finally:
        connection.close()
    return answer


def _connect_to_vesperd(connection: socket, path: str) -> None:
    """Connect as vesper_monitor/client.py does: to root's own socket, if there is one.

    :raises OSError:
    """
    end = time.monotonic() + ANSWER_LIMIT_S
    for name in (f"{path}.root", path):
        while True:
            connection.settimeout(max(0.001, end - time.monotonic()))
            try:
                connection.connect(name)
                return
            except BlockingIOError:  # too many wait to be accepted
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            except OSError:  # we are not root, or vesperd is an older one
                if name == path:
                    raise
                break
