# SPDX-License-Identifier: GPL-2.0-or-later
"""Talks QMP to a QEMU while libvirtd is down, each command with a time limit.

QEMU serves one QMP client at a time. While libvirtd lives, it is that client, even
if it hangs; then QEMU does not greet another. The protocol is described in
docs/interop/qmp-spec.txt of QEMU 7.2.

The agent must start fast, so this module imports little.
"""

from __future__ import annotations

import json
import os
import socket
import time

from vesper_monitor.hypervisor.qemu_process import pid_file_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ask_qemu", "monitor_socket_path"]

#: Longest answer or event.
_MAX_LINE_BYTES = 1 << 20
#: Longest status file of libvirt.
MAX_STATUS_BYTES = 16 << 20


def monitor_socket_path(name: str) -> str:
    """Return the path of the QMP socket from libvirt's status file of the domain.

    :raises OSError: there is no such file, or it names no monitor.
    """
    from vesper_monitor.util.regular_file import read_regular
    from vesper_monitor.util.xml_parser import parse_xml

    file = os.path.join(pid_file_folder(), f"{name}.xml")
    try:
        monitor = parse_xml(read_regular(pid_file_folder(), f"{name}.xml", MAX_STATUS_BYTES)).find(
            "monitor"
        )
    except ValueError as error:
        raise OSError(f"{file}: {error}") from None
    if monitor is None or not (found := monitor.get("path")):
        raise OSError(f"{file} names no monitor")
    return str(found)


def ask_qemu(name: str, *commands: str, limit: float) -> Any:
    """Run commands in a domain's QEMU, and return what the last one returns.

    :param limit: s for all of them.
    :raises OSError: QEMU does not run, does not greet (another client is
        connected), or refuses.
    """
    end = time.monotonic() + limit
    returned: Any = None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(limit)
        sock.connect(monitor_socket_path(name))
        stream = sock.makefile("rwb")
        try:
            _read_message(sock, stream, end, "QMP")
            for command in ("qmp_capabilities", *commands):
                stream.write(json.dumps({"execute": command}).encode() + b"\n")
                stream.flush()
                returned = _read_message(sock, stream, end, "return")
        except ValueError as error:
            raise OSError(f"QEMU's monitor is not understood: {error}") from None
    return returned


def _read_message(sock: socket.socket, stream: Any, end: float, wanted: str) -> Any:
    """Return the next message of that kind; events are skipped."""
    while True:
        sock.settimeout(max(0.001, end - time.monotonic()))
        line = stream.readline(_MAX_LINE_BYTES)
        if not line:
            raise OSError("QEMU has closed its monitor")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(f"{line[:80]!r}")
        if wanted in message:
            return message[wanted]
        if "error" in message:
            raise OSError(f"QEMU refuses: {message['error']}")
        if time.monotonic() > end:
            raise TimeoutError("QEMU's monitor sends other messages than the answer")
