# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of what others say: xenstore, toolstacks, the ivshmem server, clients of the socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, cast

from kvm_transport import ivshmem_client, libvirt_states, status_files
from kvm_transport.ivshmem_client import Attachment, IvshmemServerError
from kvm_transport.ivshmem_server import control
from tests.fuzz.memory import DOMAIN, Input, Link
from tests.fuzz.readers import loop
from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.daemon import Daemon
from vesper_monitor.daemon.server import Connection, Server
from vesper_monitor.guest import abi
from vesper_monitor.guest.region import map_region
from vesper_monitor.hypervisor import xl_list
from vesper_monitor.hypervisor.domain_state import DomainState
from vesper_monitor.hypervisor.transport import (
    Domain,
    DomainEvent,
    DomainReport,
    FrontendMissingError,
    TransportError,
)
from xen_transport import toolstack
from xen_transport.device import Device
from xen_transport.link import XenLink
from xen_transport.xenstore import XenStore

__all__ = [
    "Client", "begin", "daemon", "ivshmem_server", "raise_found", "region", "request", "socket",
    "tools", "xenstore",
]  # fmt: skip


def _at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """A coroutine that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


# ------------------------------------------------------------ regions


class _Grants(XenLink):
    """The directory's pages are the fuzzer's; which of them are asked for is looked at."""

    def __init__(self, page: bytes) -> None:
        self.domain = DOMAIN
        self._page = page

    def _map_guest_pages(self, references: list[int], what: str, *, writable: bool) -> Any:
        assert 0 < len(references) <= abi.MAX_REGION_PAGES
        assert all(0 <= reference < 1 << 32 for reference in references)
        return Link(self._page, Input(b"")).cchan

    def _close_mapping(self, mapping: Any) -> None:
        mapping.close()


def region(data: bytes) -> None:
    """A region's handle, size and head, on both transports."""
    given = Input(data)
    handle, asked, pages = given.u64(), given.u32(), given.u16()
    rest = given.rest()
    with contextlib.suppress(TransportError):
        _Grants(rest).map_region(handle, pages).close()
    link = Link(rest, Input(b""))
    with contextlib.suppress(TransportError, ValueError):
        map_region(
            link, abi.Region(handle=handle % 80, pages=asked), pages % 9 * 1000 + 1, abi.Words,
            magic=abi.WORDS_MAGIC, version=abi.WORDS_VERSION, what="last words",
        ).close()  # fmt: skip


# ------------------------------------------------------------ xenstore, toolstacks


class _Store:
    def __init__(self, given: Input) -> None:
        self._given = given

    async def read_node(self, path: str) -> str | None:
        size = self._given.u8()
        return None if size == 255 else self._given.take(size).decode("latin-1")


def xenstore(data: bytes) -> None:
    """What a guest's frontend publishes."""
    given = Input(data)
    device = Device(cast(XenStore, _Store(given)), 7, "vm1")
    for _ in range(3):
        _at_once(device.frontend_state())
        try:
            published = _at_once(device.read_published())
            assert all(0 <= number < 1 << 32 for number in published)
        except TransportError as error:
            assert str(error).isprintable(), str(error)
            assert len(str(error)) < 300


def tools(data: bytes) -> None:
    """What xl prints, and what libvirt leaves in its status files."""
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(TransportError):
        toolstack.parse_domain_list(text)
    with contextlib.suppress(TransportError):
        toolstack.parse_vcpu_list(text, 7)
    with contextlib.suppress(ValueError):
        xl_list.parse_sizes(text)
    with contextlib.suppress(TransportError):
        found = status_files._parse_status(Path("vm1.xml"), data)
        if found is not None:
            libvirt_states.make_report(found.state, found.reason)


# ------------------------------------------------------------ the ivshmem server


class _Peer:
    """Either end of a connection: gives the fuzzer's bytes, takes everything."""

    def __init__(self, given: Input) -> None:
        self._given = given

    def recv(self, size: int) -> bytes:
        return self._given.take(min(size, self._given.u16()))

    def sendmsg(self, buffers: list[bytes], *_more: object) -> int:
        return sum(map(len, buffers))

    def close(self) -> None:
        pass


def ivshmem_server(data: bytes) -> None:
    """The ivshmem server's control socket, and its answers to vesperd."""
    given = Input(data)
    which = given.u8()
    peer = cast(Any, _Peer(given))
    client = control.ControlClient(peer)
    try:
        for _ in range(8):
            for line in client.receive_requests():
                client.answer_request(line, [], {"free": 1, "size": 4096}, lambda _vm: None)
                assert len(client._buffer) <= control.MAX_REQUEST_BYTES
            if given.empty:
                break
    except OSError:
        pass
    with contextlib.suppress(IvshmemServerError):
        answer = ivshmem_client._parse_answer("sock", data[1:])
        ivshmem_client._parse_qemus("sock", answer)
    if which % 2:
        Attachment(4096, -1, -1, -1, peer).explain_loss()


# ------------------------------------------------------------ vesperd's socket


class _Transport:
    """One domain, whose guest has no frontend."""

    name = "fuzz"

    @classmethod
    def explain_unusable(cls) -> str | None:
        return None

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def list_domains(self) -> list[Domain]:
        return [DOMAIN]

    async def find_domain(self, name: str) -> Domain | None:
        return DOMAIN if name == DOMAIN.name else None

    async def report_domain(self, domain: Domain) -> DomainReport:
        return DomainReport(DomainState.RUNNING)

    async def list_active_domains(self) -> list[Domain]:
        return []

    async def connect_domain(self, domain: Domain, timeout: float) -> Any:  # noqa: ASYNC109
        await asyncio.sleep(timeout)
        raise FrontendMissingError("vm1: no frontend")

    async def deactivate_domain(self, domain: Domain) -> None: ...

    async def follow_events(self) -> AsyncIterator[DomainEvent]:
        await asyncio.Event().wait()
        yield DomainEvent(7)


class Client(Connection):
    """A connection's far end."""

    def __init__(self, *, root: bool) -> None:
        super().__init__(1, os.geteuid() if root else os.geteuid() + 1)
        self.answers = 0

    @property
    def is_over(self) -> bool:
        return False

    async def read_line(self) -> bytes | None:
        return None

    def write_data(self, data: bytes) -> None:
        for line in data.splitlines():
            answer = json.loads(line)
            assert "internal" not in answer.get("code", "") or ": " in answer["error"]
            assert not answer.get("error", "").startswith("AssertionError")
            if not self.privileged:
                assert answer["ok"] or answer["code"] != "internal", answer
            self.answers += 1

    async def drain_buffer(self) -> None: ...

    async def close(self) -> None: ...


class _Errors(logging.Handler):
    """An internal error of a request is logged with its traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            found.append(record.exc_info[1])


found: list[BaseException] = []
_daemon: Daemon | None = None
_server: Server | None = None
#: s that a request may wait for what never comes; then its client goes.
PATIENCE_S = 0.002


def begin() -> Server:
    """A whole vesperd, the same for all inputs."""
    global _daemon, _server
    if _server is not None:
        return _server
    logging.getLogger("vesper_monitor").addHandler(_Errors())
    logging.getLogger("vesper_monitor").propagate = False
    directory = tempfile.mkdtemp()
    config = Config(
        socket=f"{directory}/sock", journal=f"{directory}/journal", probes_dir=directory, group=""
    )
    _daemon = Daemon(config, {"fuzz": cast(Any, _Transport)})
    loop.run_until_complete(_daemon.start())
    _server = _daemon._server
    return _server


async def request(server: Server, line: bytes, client: Client) -> None:
    work = asyncio.ensure_future(server._serve_request(client, line))
    await asyncio.wait({work}, timeout=PATIENCE_S)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


def daemon() -> Daemon:
    """The one behind :func:`begin`."""
    assert _daemon is not None
    return _daemon


def raise_found() -> None:
    """Raise an internal error that was only logged."""
    if found:
        raise found.pop()


def socket(data: bytes) -> None:
    """Requests to a whole vesperd."""
    server = begin()
    given = Input(data)
    client = Client(root=given.u8() % 4 != 0)
    for line in given.rest().split(b"\n")[:4]:
        loop.run_until_complete(request(server, line, client))
    raise_found()
