# SPDX-License-Identifier: GPL-2.0-or-later
"""What one QEMU has: its shared memory, two eventfds, and the handshake.

The protocol is that of QEMU's docs/specs/ivshmem-spec (7.2), "Interface
between server and client": messages of 8 bytes, little endian, some with a
descriptor; the server alone sends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from vesper_monitor.guest import abi

__all__ = ["GUEST_ID", "HOST_ID", "ROLES", "VmDevice"]

#: ivshmem's numbers of the two ends.  Only a guest of number 0 can be the
#: device's "master", without which QEMU refuses to migrate it.
GUEST_ID = 0
HOST_ID = 1

_PROTOCOL_VERSION = 0
_SHARED_MEMORY_ID = -1
_MESSAGE = struct.Struct("<q")
_MARK = struct.Struct("<I")
_UCRED = struct.Struct("iII")  # struct ucred, unix(7)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

#: The descriptors of a VM, by what they are for.
ROLES = ("qemu", "memory", "to_host", "to_guest")


@dataclass
class VmDevice:
    """One ivshmem device of one QEMU.

    :ivar pid: QEMU's process; 0 if it is not of this PID namespace.
    :ivar since: s, CLOCK_REALTIME, of its connection.
    :ivar qemu: the connection; its end is the device's.
    :ivar memory: memfd, which nobody can make larger or smaller.
    :ivar to_host: eventfd, which the guest's doorbell writes.
    :ivar to_guest: eventfd, which becomes the guest's interrupt.
    """

    pid: int
    since: float
    qemu: socket.socket
    memory: int
    to_host: int
    to_guest: int

    @classmethod
    def create_for_qemu(cls, qemu: socket.socket, size: int, since: float) -> VmDevice:
        """
        :param qemu: a connection, which is the object's from now on.
        :param size: bytes of shared memory, a power of two.
        :raises OSError: no more memory or descriptors.
        """
        raw = qemu.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, _uid, _gid = _UCRED.unpack(raw)
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        opened: list[int] = []
        try:
            opened.append(os.memfd_create("vesper", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
            os.ftruncate(opened[0], size)
            os.pwrite(opened[0], _MARK.pack(abi.SHM_MAGIC), abi.field_offset(abi.ShmHead, "mark"))
            fcntl.fcntl(opened[0], fcntl.F_ADD_SEALS, _SEALS)
            opened.append(os.eventfd(0, flags))
            opened.append(os.eventfd(0, flags))
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        memory, to_host, to_guest = opened
        return cls(pid, since, qemu, memory, to_host, to_guest)

    @classmethod
    def adopt_descriptors(cls, pid: int, since: float, descriptors: Mapping[str, int]) -> VmDevice:
        """Of the descriptors that :attr:`descriptors` gave an earlier process.

        :raises OSError: one is not what it should be.
        """
        qemu = socket.socket(fileno=descriptors["qemu"])
        qemu.setblocking(False)
        return cls(
            pid,
            since,
            qemu,
            descriptors["memory"],
            descriptors["to_host"],
            descriptors["to_guest"],
        )

    @property
    def descriptors(self) -> dict[str, int]:
        """By :data:`ROLES`."""
        return {
            "qemu": self.qemu.fileno(),
            "memory": self.memory,
            "to_host": self.to_host,
            "to_guest": self.to_guest,
        }

    def send_handshake(self) -> None:
        """Send the whole handshake.

        QEMU reads it before it does anything else.  It fits into any socket's
        buffer, so nothing is waited for.

        :raises OSError: QEMU has gone; BlockingIOError: it was not QEMU.
        """
        self._send_number(_PROTOCOL_VERSION)
        self._send_number(GUEST_ID)
        self._send_number(_SHARED_MEMORY_ID, self.memory)
        self._send_number(HOST_ID, self.to_host)
        self._send_number(GUEST_ID, self.to_guest)

    def _send_number(self, number: int, *descriptors: int) -> None:
        socket.send_fds(self.qemu, [_MESSAGE.pack(number)], list(descriptors))

    def close_descriptors(self) -> None:
        self.qemu.close()
        for descriptor in (self.memory, self.to_host, self.to_guest):
            os.close(descriptor)
