# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host asks of an activated guest: HELLO, load, unload, its channels.

The host half of the action layer: one object per link, no state machine (that
is session.py's), every failure with a sentence for people.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from vesper_monitor.guest import abi
from vesper_monitor.guest.control.cchan import (
    Cchan,
    CchanError,
    GuestRefusedError,
    GuestSilentError,
)
from vesper_monitor.guest.control.images import Image, ImageError, ImageStore
from vesper_monitor.guest.control.modinfo import ModinfoError, rename_module
from vesper_monitor.guest.dynamic_probes.point import DynamicProbe
from vesper_monitor.guest.dynamic_probes.program import IMAGE, module_parameters
from vesper_monitor.guest.errors import SessionError
from vesper_monitor.guest.health.heartbeat import MAX_CPUS
from vesper_monitor.guest.printable import make_printable
from vesper_monitor.guest.relay.channel import ChannelEntry, ChannelTable
from vesper_monitor.hypervisor.transport import Link, TransportError

__all__ = ["GuestControl", "Hello"]

_log = logging.getLogger(__name__)

#: Longest module parameters the guest takes (bytes).
_MAX_PARAMS = 1024


@dataclass(frozen=True)
class Hello:
    """What the guest said of itself (made printable)."""

    version: int
    release: str
    vermagic: str
    nr_cpus: int
    boot_id: int
    words: abi.Region = field(default_factory=abi.Region)  #: last words; handle 0: none
    life: abi.Region = field(default_factory=abi.Region)  #: signs of life; likewise


class GuestControl:
    """An activated guest that has answered HELLO."""

    def __init__(self, link: Link, cchan: Cchan, hello: Hello, table: ChannelTable) -> None:
        self.link = link
        self.cchan = cchan
        self.hello = hello
        self.table = table

    @classmethod
    async def greet_guest(cls, link: Link) -> GuestControl:
        """Say HELLO over a new link.

        :raises WrongVersion: :raises GuestSilentError: :raises CchanError: what it
            says cannot be true.
        :raises TransportError: what it shares cannot be mapped.
        """
        vm = link.domain.name
        cchan = Cchan(link)

        def kick() -> None:
            cchan.wake_up()

        link.on_notify(kick)
        link.on_lost(cchan.abort_requests)
        try:
            answer = await cchan.request_hello()
        except GuestRefusedError as refused:
            raise CchanError(f"{vm}: {refused}") from None
        if not 0 < answer.nr_cpus <= MAX_CPUS:
            raise CchanError(f"{vm}: the guest claims to have {answer.nr_cpus} CPUs")
        hello = Hello(
            version=answer.hdr.version,
            release=make_printable(answer.release),
            vermagic=make_printable(answer.vermagic).strip(),
            nr_cpus=answer.nr_cpus,
            boot_id=answer.boot_id,
            words=answer.words,
            life=answer.life,
        )
        return cls(link, cchan, hello, ChannelTable(link, answer.table, answer.nr_cpus))

    async def load_probe(self, images: ImageStore, name: str, params: str) -> None:
        """Find the image of a probe for this guest and load it.

        :raises SessionError:
        """
        image = await self._find_image(images, name)
        await self._load_module(name, image.path, image.data, params)

    async def load_dynamic_probe(self, images: ImageStore, probe: DynamicProbe) -> None:
        """Load the image that all dynamic probes share, under the name of this one.

        :raises SessionError:
        """
        image = await self._find_image(images, IMAGE)
        try:
            data = rename_module(image.data, probe.name)
        except ModinfoError as error:
            raise SessionError(
                f"{self.link.domain.name}: {image.path}: {error}", code="no-image"
            ) from None
        await self._load_module(probe.name, image.path, data, module_parameters(probe))

    async def _find_image(self, images: ImageStore, name: str) -> Image:
        vm, hello = self.link.domain.name, self.hello
        try:
            return await asyncio.to_thread(
                images.find_image, vm, hello.release, hello.vermagic, name
            )
        except ImageError as error:
            raise SessionError(str(error), code="no-image") from None

    async def _load_module(self, name: str, path: Path, data: bytes, params: str) -> None:
        vm = self.link.domain.name
        arguments = params.encode()
        if len(arguments) > _MAX_PARAMS or b"\0" in arguments:
            raise SessionError(
                f"{vm}: parameters of probe {name} have more than {_MAX_PARAMS} bytes or a NUL",
                code="bad-request",
            )
        try:
            region = await self._write_region(data + arguments)
            text = await self.cchan.request_load(
                name, region, len(data), len(arguments), zlib.crc32(data + arguments)
            )
        except (GuestRefusedError, CchanError, TransportError) as error:
            raise self._make_error(f"cannot load probe {name}", error) from None
        _log.info("%s: loaded probe %s from %s%s", vm, name, path, text and f" ({text})")

    async def unload_probe(self, name: str) -> None:
        """Unload a probe whose channel has been closed. :raises SessionError:"""
        try:
            await self.cchan.request_unload(name)
        except (GuestRefusedError, CchanError) as error:
            raise self._make_error(f"cannot unload probe {name}", error) from None
        _log.info("%s: unloaded probe %s", self.link.domain.name, name)

    def read_table(self) -> dict[str, ChannelEntry]:
        """Open channels. :raises TableError:"""
        return self.table.read_entries()

    async def close_link(self, *, deactivate: bool) -> None:
        """Give up the link. Every channel has been closed before."""
        self.cchan.abort_requests("the host has closed the link")
        self.table.close()
        await self.link.close(deactivate=deactivate)

    async def _write_region(self, data: bytes) -> abi.Region:
        """Put bytes into memory that the guest makes for it."""
        region = await self.cchan.mem_alloc(abi.pages_for(len(data)))
        try:
            mapping = self.link.map_region(region.handle, abi.pages_for(len(data)), writable=True)
        except TransportError:
            await self.cchan.mem_free(region.handle)
            raise
        try:
            mapping.view[: len(data)] = data
        finally:
            mapping.close()
        return region

    def _make_error(self, what: str, error: Exception) -> SessionError:
        vm = self.link.domain.name
        if isinstance(error, GuestRefusedError):
            return SessionError(f"{vm}: {what}: {error}", code="guest", errno=error.errno)
        text = str(error).removeprefix(f"{vm}: ")
        code = "timeout" if isinstance(error, GuestSilentError) else "guest"
        return SessionError(f"{vm}: {what}: {text}", code=code)
