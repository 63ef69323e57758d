# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop of the ivshmem server. It serves QEMUs and clients, and waits for none of them."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvm_transport.ivshmem_server import fdstore
from kvm_transport.ivshmem_server.control import ControlClient
from kvm_transport.ivshmem_server.vm import VmDevice

__all__ = ["CONTROL_SOCKET", "QEMU_SOCKET", "IvshmemServer"]

_log = logging.getLogger(__name__)

#: Names of the sockets in the server's directory.
QEMU_SOCKET = "qemu.sock"
CONTROL_SOCKET = "control.sock"

#: Devices of one QEMU.  If it connects another one, the oldest is dropped: a device that
#: is plugged in again may connect before the end of the earlier one is seen.
_MAX_DEVICES_PER_PROCESS = 2
#: Control connections besides one for each VM.
_MAX_OTHER_CLIENTS = 32
#: Connections that wait to be accepted.  Hundreds of QEMUs may start at once.
_LISTEN_BACKLOG = 512


class IvshmemServer:
    """The server of all QEMUs of a host.

    It listens as soon as it is made; :meth:`serve_until_stopped` serves.
    """

    def __init__(self, directory: Path, *, size: int, max_vms: int, gid: int = -1) -> None:
        """
        :param size: bytes of each VM's shared memory, a power of two.
        :param max_vms: devices that it serves at most.
        :param gid: group that may connect as a QEMU; -1: root alone.
        :raises OSError: a socket cannot be created.
        """
        self._size = size
        self._max_vms = max_vms
        self._selector = selectors.DefaultSelector()
        self._vms: list[VmDevice] = []
        self._clients: list[ControlClient] = []
        self._stop, self._stopper = socket.socketpair()
        self._stopped = False
        self._watch_socket(self._stop, self._handle_stop_request)
        for vm in fdstore.adopt_kept_vms():
            self._add_vm_to_loop(vm)
            _log.info("QEMU %d: device taken over from systemd's descriptor store", vm.pid)
        self._open_listener(directory / QEMU_SOCKET, gid, self._accept_qemu)
        self._open_listener(directory / CONTROL_SOCKET, -1, self._accept_client)

    def serve_until_stopped(self) -> None:
        """Serve until :meth:`request_stop`."""
        while not self._stopped:
            for key, _events in self._selector.select():
                if self._selector.get_map().get(key.fd) is key:  # not closed by one before it
                    key.data()

    def request_stop(self) -> None:
        """End :meth:`serve_until_stopped`. Signal handlers and other threads may call this."""
        self._stopper.send(b"x")

    def close_all_sockets(self) -> None:
        """Close all connections and devices. systemd keeps the descriptors that it stores."""
        for client in list(self._clients):
            self._drop_client(client)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._stopper.close()
        for vm in self._vms:
            vm.close_descriptors()

    # ---------------------------------------------------------------- sockets

    def _watch_socket(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, callback)

    def _open_listener(self, path: Path, gid: int, accept: Callable[[socket.socket], None]) -> None:
        """Listen on a new socket and rename it to ``path``, so that the path always exists."""
        listener = socket.socket(socket.AF_UNIX)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        old_mask = os.umask(0o177)
        try:
            listener.bind(str(new))
        finally:
            os.umask(old_mask)
        if gid != -1:
            os.chown(new, -1, gid)
            new.chmod(0o660)
        listener.listen(_LISTEN_BACKLOG)
        new.rename(path)
        listener.setblocking(False)
        self._watch_socket(listener, lambda: self._accept_connection(listener, accept))

    def _accept_connection(
        self, listener: socket.socket, accept: Callable[[socket.socket], None]
    ) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if not isinstance(error, (BlockingIOError, ConnectionError)):
                # Out of descriptors.  select() returns at once again: do not use up a CPU.
                _log.error("cannot accept a connection: %s", error)
                time.sleep(0.01)
            return
        connection.setblocking(False)
        accept(connection)

    # ------------------------------------------------------------------ QEMUs

    def _accept_qemu(self, connection: socket.socket) -> None:
        if len(self._vms) >= self._max_vms:
            _log.error("refused a QEMU: all %d devices are in use (--max-vms)", self._max_vms)
            connection.close()
            return
        try:
            vm = VmDevice.create_for_qemu(connection, self._size, time.time())
        except OSError as error:
            _log.error("cannot create the shared memory of a QEMU: %s", error)
            connection.close()
            return
        try:
            vm.send_handshake()
        except OSError as error:
            _log.warning("QEMU %d: the handshake failed: %s", vm.pid, error)
            vm.close_descriptors()
            return
        for old in [old for old in self._vms if old.pid == vm.pid][
            : 1 - _MAX_DEVICES_PER_PROCESS or None
        ]:
            self._drop_vm_device(old, "it has connected a newer one")
        fdstore.keep_descriptors(vm)
        self._add_vm_to_loop(vm)
        _log.info("QEMU %d: device connected, %d bytes", vm.pid, self._size)
        self._notify_watchers({"come": vm.pid})

    def _add_vm_to_loop(self, vm: VmDevice) -> None:
        self._vms.append(vm)
        self._watch_socket(vm.qemu, lambda: self._handle_qemu_input(vm))

    def _handle_qemu_input(self, vm: VmDevice) -> None:
        """Drop the device. A client of the ivshmem protocol sends nothing until it closes."""
        try:
            data = vm.qemu.recv(1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._drop_vm_device(vm, "it sent data, as no QEMU does" if data else "QEMU closed it")

    def _drop_vm_device(self, vm: VmDevice, why: str) -> None:
        _log.info("QEMU %d: device dropped: %s", vm.pid, why)
        self._vms.remove(vm)
        self._selector.unregister(vm.qemu)
        fdstore.forget_descriptors(vm)
        self._detach_clients(vm, "gone")
        vm.close_descriptors()
        self._notify_watchers({"gone": vm.pid})

    # ---------------------------------------------------------------- clients

    def _accept_client(self, connection: socket.socket) -> None:
        if len(self._clients) >= self._max_vms + _MAX_OTHER_CLIENTS:
            _log.error("refused a client: %d are connected already", len(self._clients))
            connection.close()
            return
        client = ControlClient(connection)
        self._clients.append(client)
        self._watch_socket(connection, lambda: self._handle_client_input(client))

    def _handle_client_input(self, client: ControlClient) -> None:
        try:
            for line in client.receive_requests():
                client.answer_request(
                    line,
                    self._vms,
                    self._count_free_places(),
                    lambda vm: self._detach_clients(vm, "taken"),
                )
        except OSError:
            self._drop_client(client)

    def _count_free_places(self) -> dict[str, int]:
        return {"free": self._max_vms - len(self._vms), "size": self._size}

    def _detach_clients(self, vm: VmDevice, why: str) -> None:
        for client in list(self._clients):
            if client.attached is vm:
                client.attached = None
                self._send_notification(client, {"lost": why})
                self._drop_client(client)

    def _notify_watchers(self, notification: dict[str, Any]) -> None:
        for client in list(self._clients):
            if client.watches:
                self._send_notification(client, notification)

    def _send_notification(self, client: ControlClient, notification: dict[str, Any]) -> None:
        try:
            client.send_answer(notification)
        except OSError:
            self._drop_client(client)

    def _drop_client(self, client: ControlClient) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client.connection)
            client.connection.close()

    def _handle_stop_request(self) -> None:
        self._stopped = True
