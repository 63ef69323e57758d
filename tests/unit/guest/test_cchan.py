# SPDX-License-Identifier: GPL-2.0-or-later
"""C-chan's host half, with a guest that behaves and guests that do not."""

from __future__ import annotations

import asyncio
import ctypes
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesper_monitor.guest import abi
from vesper_monitor.guest.control import cchan
from vesper_monitor.guest.control.cchan import (
    Cchan,
    CchanError,
    CchanLostError,
    GuestRefusedError,
    GuestSilentError,
    WrongVersionError,
)
from vesper_monitor.hypervisor.transport import Domain

TO_GUEST = abi.field_offset(abi.Cchan, "to_guest")
TO_HOST = abi.field_offset(abi.Cchan, "to_host")
PROD, CONS = abi.field_offset(abi.CchanRing, "prod"), abi.field_offset(abi.CchanRing, "cons")
SLOT = abi.field_offset(abi.CchanRing, "slot")


class Page:
    """A mapping of plain memory."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(abi.PAGE_SIZE))
        head = abi.Cchan(magic=abi.CCHAN_MAGIC, version=abi.ABI_VERSION)
        self.view[: ctypes.sizeof(head)] = bytes(head)

    def close(self) -> None:
        pass


class FakeLink:
    """A link whose guest is the function ``react``, called for each notification."""

    def __init__(self, react: Callable[[FakeLink], None] = lambda link: None) -> None:
        self.domain = Domain("vm1", 1, "uuid")
        self.cchan = Page()
        self.react = react
        self.channel: Cchan | None = None

    def notify_guest(self) -> None:
        self.react(self)

    def request(self) -> bytes | None:
        """Take a request as the guest does."""
        view = self.cchan.view
        prod, cons = (abi.load_u32(view, TO_GUEST + at) for at in (PROD, CONS))
        if prod == cons:
            return None
        at = TO_GUEST + SLOT + cons % abi.CCHAN_SLOTS * abi.MSG_SIZE
        abi.store_u32(view, TO_GUEST + CONS, cons + 1)
        return bytes(view[at : at + abi.MSG_SIZE])

    def reply(self, message: bytes) -> None:
        view = self.cchan.view
        prod = abi.load_u32(view, TO_HOST + PROD)
        at = TO_HOST + SLOT + prod % abi.CCHAN_SLOTS * abi.MSG_SIZE
        view[at : at + len(message)] = message
        abi.store_u32(view, TO_HOST + PROD, prod + 1)
        if self.channel:
            self.channel.wake_up()


def answering(
    make: Callable[[abi.MsgHdr], tuple[int, ctypes.Structure]], before: bytes = b""
) -> Callable[[FakeLink], None]:
    """A guest that answers; ``before``: a reply of its own that comes first."""

    def react(link: FakeLink) -> None:
        data = link.request()
        if data is None:
            return
        header = abi.MsgHdr.from_buffer_copy(data)
        if before:
            link.reply(before)
        status, body = make(header)
        head = abi.MsgHdr(
            type=header.type, seq=header.seq, status=status, version=abi.ABI_VERSION
        )
        link.reply(bytes(head) + bytes(body)[ctypes.sizeof(head) :])

    return react


def talk(link: FakeLink, body: Callable[[Cchan], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        link.channel = Cchan(link)  # type: ignore[arg-type]
        return await asyncio.wait_for(body(link.channel), 30)

    return asyncio.run(run())


def test_a_hello_is_read() -> None:
    link = FakeLink(answering(lambda header: (0, abi.MsgHello(nr_cpus=3, release=b"6.1.0"))))
    hello = talk(link, Cchan.request_hello)
    assert (hello.nr_cpus, hello.release) == (3, b"6.1.0")


def test_counters_may_wrap() -> None:
    """prod and cons wrap at 2^32; a taken-over link starts anywhere."""
    link = FakeLink(answering(lambda header: (0, abi.MsgHello(nr_cpus=1))))
    for ring in (TO_GUEST, TO_HOST):
        for counter in (PROD, CONS):
            abi.store_u32(link.cchan.view, ring + counter, 0xFFFFFFFE)

    async def body(channel: Cchan) -> None:
        for _ in range(10):
            await channel.request_hello()

    talk(link, body)
    assert abi.load_u32(link.cchan.view, TO_GUEST + PROD) == 8


def test_replies_to_an_earlier_daemon_are_skipped() -> None:
    foreign = bytes(abi.MsgHello(hdr=abi.MsgHdr(type=1, seq=4242, version=1), nr_cpus=99))
    link = FakeLink(answering(lambda header: (0, abi.MsgHello(nr_cpus=2)), before=foreign))
    assert talk(link, Cchan.request_hello).nr_cpus == 2


def test_refused_with_the_kernels_words() -> None:
    link = FakeLink(
        answering(lambda header: (-errno.ENOEXEC, abi.MsgResult(text=b"x: bad \x1b[31mmagic")))
    )
    region = abi.Region(handle=7, pages=1)
    with pytest.raises(GuestRefusedError) as caught:
        talk(link, lambda channel: channel.request_load("x", region, 10, 0, 0))
    assert caught.value.errno == errno.ENOEXEC
    assert caught.value.text == "x: bad \\x1b[31mmagic"


def test_a_request_without_a_reply_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cchan, "LOAD_TIMEOUT_S", 0.1)
    with pytest.raises(GuestSilentError, match="vm1: no answer from the guest"):
        talk(FakeLink(), lambda channel: channel.request_unload("x"))


def test_an_aborted_channel_wakes_who_waits() -> None:
    async def body(channel: Cchan) -> None:
        waiting = asyncio.create_task(channel.request_hello())
        await asyncio.sleep(0)
        channel.abort_requests("the guest has gone")
        with pytest.raises(CchanLostError, match="the guest has gone"):
            await waiting

    talk(FakeLink(), body)


def test_a_page_without_magic_is_no_c_chan() -> None:
    link = FakeLink()
    abi.store_u32(link.cchan.view, 0, 0)
    with pytest.raises(CchanError, match="magic"):
        Cchan(link)  # type: ignore[arg-type]


def test_another_version_is_refused() -> None:
    link = FakeLink()
    abi.store_u32(link.cchan.view, abi.field_offset(abi.Cchan, "version"), 7)
    with pytest.raises(WrongVersionError, match="speak protocol 7"):
        Cchan(link)  # type: ignore[arg-type]
    refusing = FakeLink(answering(lambda header: (-errno.EPROTO, abi.MsgHello())))
    with pytest.raises(WrongVersionError):
        talk(refusing, Cchan.request_hello)


@given(st.lists(st.binary(max_size=4032), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_bytes_in_the_page_are_survived(contents: list[bytes]) -> None:
    """A hostile guest: an answer, or one of the errors that are meant for it."""
    steps = list(contents)

    def react(link: FakeLink) -> None:
        if steps:
            content = steps.pop()
            link.cchan.view[64 : 64 + len(content)] = content
            if link.channel:
                link.channel.wake_up()

    async def body(channel: Cchan) -> None:
        try:
            async with asyncio.timeout(0.05):
                await channel.request_hello()
        except (TimeoutError, CchanError, GuestRefusedError):
            pass

    talk(FakeLink(react), body)
