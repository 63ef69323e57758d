# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop: QEMUs and clients, none of which is ever waited for."""

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

#: Names of the sockets in the holder's directory.
QEMU_SOCKET = "qemu.sock"
CONTROL_SOCKET = "control.sock"

#: Devices of one process; the oldest go.  (One that is plugged in again may
#: connect before the end of the one before it is seen.)
_MAX_DEVICES_PER_PROCESS = 2
#: Control connections, beyond one for each VM.
_MAX_OTHER_CLIENTS = 32
#: QEMU may be stopped for long before it reads: those that wait are not refused.
_LISTEN_BACKLOG = 512


class IvshmemServer:
    """Listens as soon as it is made; :meth:`serve_until_stopped` serves."""

    def __init__(self, directory: Path, *, size: int, max_vms: int, gid: int = -1) -> None:
        """
        :param size: bytes of each VM's shared memory, a power of two.
        :param gid: QEMU's group, -1: root's alone.
        :raises OSError: a socket cannot be made.
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
            _log.info("QEMU %d: device kept", vm.pid)
        self._open_listener(directory / QEMU_SOCKET, gid, self._accept_qemu)
        self._open_listener(directory / CONTROL_SOCKET, -1, self._accept_client)

    def serve_until_stopped(self) -> None:
        """Serve until :meth:`request_stop`."""
        while not self._stopped:
            for key, _events in self._selector.select():
                if self._selector.get_map().get(key.fd) is key:  # not closed by one before it
                    key.data()

    def request_stop(self) -> None:
        """End :meth:`serve_until_stopped`; from a signal handler or another thread, too."""
        self._stopper.send(b"x")

    def close_all_sockets(self) -> None:
        """Close everything; what systemd keeps stays with it."""
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

    def _open_listener(self, path: Path, gid: int, comes: Callable[[socket.socket], None]) -> None:
        """A new name in place of an old one: nobody finds it missing meanwhile."""
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
        self._watch_socket(listener, lambda: self._accept_connection(listener, comes))

    def _accept_connection(
        self, listener: socket.socket, comes: Callable[[socket.socket], None]
    ) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if not isinstance(error, (BlockingIOError, ConnectionError)):
                # No more descriptors.  It is tried again at once; leave others room.
                _log.error("cannot accept a connection: %s", error)
                time.sleep(0.01)
            return
        connection.setblocking(False)
        comes(connection)

    # ------------------------------------------------------------------ QEMUs

    def _accept_qemu(self, connection: socket.socket) -> None:
        if len(self._vms) >= self._max_vms:
            _log.error("a QEMU more than %d: refused", self._max_vms)
            connection.close()
            return
        try:
            vm = VmDevice.create_for_qemu(connection, self._size, time.time())
        except OSError as error:
            _log.error("no shared memory for a QEMU: %s", error)
            connection.close()
            return
        try:
            vm.send_handshake()
        except OSError as error:
            _log.warning("QEMU %d: gone in the handshake: %s", vm.pid, error)
            vm.close_descriptors()
            return
        for old in [old for old in self._vms if old.pid == vm.pid][
            : 1 - _MAX_DEVICES_PER_PROCESS or None
        ]:
            self._drop_vm_device(old, "has a newer device")
        fdstore.keep_descriptors(vm)
        self._add_vm_to_loop(vm)
        _log.info("QEMU %d: device of %d bytes", vm.pid, self._size)
        self._notify_watchers({"come": vm.pid})

    def _add_vm_to_loop(self, vm: VmDevice) -> None:
        self._vms.append(vm)
        self._watch_socket(vm.qemu, lambda: self._handle_qemu_input(vm))

    def _handle_qemu_input(self, vm: VmDevice) -> None:
        """A client of the ivshmem protocol says nothing, and then closes."""
        try:
            said = vm.qemu.recv(1)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self._drop_vm_device(vm, "talks: it is no QEMU" if said else "has closed its device")

    def _drop_vm_device(self, vm: VmDevice, why: str) -> None:
        _log.info("QEMU %d %s", vm.pid, why)
        self._vms.remove(vm)
        self._selector.unregister(vm.qemu)
        fdstore.forget_descriptors(vm)
        self._detach_clients(vm, "gone")
        vm.close_descriptors()
        self._notify_watchers({"gone": vm.pid})

    # ---------------------------------------------------------------- clients

    def _accept_client(self, connection: socket.socket) -> None:
        if len(self._clients) >= self._max_vms + _MAX_OTHER_CLIENTS:
            _log.error("a client more than %d: refused", len(self._clients))
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

    def _notify_watchers(self, news: dict[str, Any]) -> None:
        for client in list(self._clients):
            if client.watches:
                self._send_notification(client, news)

    def _send_notification(self, client: ControlClient, news: dict[str, Any]) -> None:
        try:
            client.send_answer(news)
        except OSError:
            self._drop_client(client)

    def _drop_client(self, client: ControlClient) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client.connection)
            client.connection.close()

    def _handle_stop_request(self) -> None:
        self._stopped = True
