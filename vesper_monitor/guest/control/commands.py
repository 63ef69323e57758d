# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands to an activated guest: HELLO, load, unload, channel table.

One object per link, without a state machine (:mod:`vesper_monitor.guest.session_link`
has it). Each failure carries a sentence for people.
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

#: Longest module parameters that the guest takes.
_MAX_PARAMS_BYTES = 1024


@dataclass(frozen=True)
class Hello:
    """The guest's answer to HELLO, made printable."""

    version: int
    release: str
    vermagic: str
    nr_cpus: int
    boot_id: int
    crash_log_region: abi.Region = field(default_factory=abi.Region)  #: handle 0: none
    heartbeat_region: abi.Region = field(default_factory=abi.Region)  #: handle 0: none


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

        :raises WrongVersionError: :raises GuestSilentError:
        :raises CchanError: the answer is invalid.
        :raises TransportError: the channel table cannot be mapped.
        """
        vm = link.domain.name
        cchan = Cchan(link)
        link.on_notify(cchan.wake_up)
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
            crash_log_region=answer.words,
            heartbeat_region=answer.life,
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
        if len(arguments) > _MAX_PARAMS_BYTES or b"\0" in arguments:
            raise SessionError(
                f"{vm}: parameters of probe {name} have more than "
                f"{_MAX_PARAMS_BYTES} bytes, or a NUL",
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
        """Return the open channels by probe. :raises TableError:"""
        return self.table.read_entries()

    async def close_link(self, *, deactivate: bool) -> None:
        """Close the link; all channels are closed already."""
        self.cchan.abort_requests("the host has closed the link")
        self.table.close()
        await self.link.close(deactivate=deactivate)

    async def _write_region(self, data: bytes) -> abi.Region:
        """Write bytes into memory that the guest shares for them."""
        region = await self.cchan.alloc_memory(abi.pages_for(len(data)))
        try:
            mapping = self.link.map_region(region.handle, abi.pages_for(len(data)), writable=True)
        except TransportError:
            await self.cchan.free_memory(region.handle)
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
