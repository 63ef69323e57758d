# SPDX-License-Identifier: GPL-2.0-or-later
"""vesper-ivshmem, the ivshmem server of each QEMU that has VESPER's device.

QEMU waits for its answer without a limit when it starts.  So the agent asks
before whether the server answers.
"""

from __future__ import annotations

import json
import os
import socket

__all__ = ["find_trouble", "qemu_socket", "socket_folder"]

#: Seconds for its answer.
ANSWER_LIMIT_S = 1.0


def socket_folder() -> str:
    """Return the folder of its sockets: ``$VESPER_IVSHMEM`` or the usual one."""
    return os.environ.get("VESPER_IVSHMEM") or "/run/vesper-ivshmem"


def qemu_socket() -> str:
    return os.path.join(socket_folder(), "qemu.sock")


def find_trouble() -> str:
    """Return why it will not serve another QEMU; empty: it will.

    The text is read later: by then the server may run, and the VM lacks its device.
    """
    path = os.path.join(socket_folder(), "control.sock")
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(ANSWER_LIMIT_S)
            sock.connect(path)
            sock.sendall(b"ping\n")
            answer = json.loads(sock.makefile("rb").readline(4096))
        if answer["ok"] is not True:
            return f"vesper-ivshmem: {answer.get('error')}"
        if answer.get("free") == 0:
            return f"vesper-ivshmem serves {answer.get('vms')} VMs and takes no more"
    except TimeoutError:
        return f"vesper-ivshmem did not answer within {ANSWER_LIMIT_S:g} s ({path})"
    except OSError as error:
        return f"vesper-ivshmem did not run ({error.strerror}); start it, then restart the VM"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"the process that answers at {path} is not vesper-ivshmem"
    return ""
