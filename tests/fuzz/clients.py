# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of a whole vesperd: the group's bytes, and texts of every encoding."""

from __future__ import annotations

import asyncio
import json
import socket

from tests.fuzz import others
from tests.fuzz.memory import DOMAIN, Input
from tests.fuzz.readers import loop
from tests.fuzz.seeds import REQUESTS
from vesper_monitor.daemon import server as server_module
from vesper_monitor.daemon import share
from vesper_monitor.daemon.connection import MAX_LINE_BYTES
from vesper_monitor.daemon.server import Server

__all__ = ["group", "texts"]

#: A user that may only read.
NOBODY = 65534
#: s for the answers to one input, most of which come at once.
PATIENCE_S = 0.003
#: Codes that a reader may be answered with, whatever it asks for.
READERS_CODES = frozenset(
    {"bad-request", "denied", "no-such-vm", "no-such-probe", "not-active", "no-transport"}
    | {"timeout", "guest", "no-image"}
)


def _vesperd() -> Server:
    share.REST_PER_TURN = 0.0
    vars(server_module)["peer_of"] = lambda _peer: (1, NOBODY)
    return others.begin()


def group(data: bytes) -> None:
    """What a member of the group sends, in pieces of any size, through its own port."""
    server = _vesperd()
    given = Input(data)
    pieces = [given.take(given.u16() % MAX_LINE_BYTES) for _ in range(given.u8() % 4)] + [
        given.rest()
    ]
    loop.run_until_complete(_talk(server, pieces))
    others.raise_found()


async def _talk(server: Server, pieces: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    answers = bytearray()
    with ours:
        server._handle_accepted(theirs)
        for piece in pieces:
            end = asyncio.get_running_loop().time() + PATIENCE_S
            left = piece
            while left:
                try:
                    left = left[ours.send(left) :]
                except BlockingIOError:
                    await asyncio.sleep(0)
                except OSError:
                    break
                if asyncio.get_running_loop().time() > end:
                    break
                _take(ours, answers)
        await asyncio.sleep(PATIENCE_S)
        _take(ours, answers)
    for line in answers.splitlines():
        answer = json.loads(line)
        assert answer["ok"] or answer["code"] in READERS_CODES, answer
    end = asyncio.get_running_loop().time() + 5
    while server._clients and asyncio.get_running_loop().time() < end:
        await asyncio.wait(server._clients, timeout=0.1)
    assert not server._clients, "a client has gone, and is served on"


def _take(sock: socket.socket, answers: bytearray) -> None:
    while True:
        try:
            data = sock.recv(1 << 16)
        except OSError:
            return
        if not data:
            return
        answers += data


#: How bytes become a text that JSON can bring, right or wrong.
_ENCODINGS = (
    ("utf-8", "surrogateescape"), ("utf-8", "surrogatepass"), ("latin-1", "strict"),
    ("utf-16-le", "surrogatepass"), ("utf-32-le", "ignore"), ("euc-jp", "surrogateescape"),
    ("cp1252", "ignore"), ("utf-7", "ignore"), ("shift-jis", "ignore"),
)  # fmt: skip


def texts(data: bytes) -> None:
    """Requests of root and of the group with texts of every encoding in each place."""
    server = others.begin()
    given = Input(data)
    client = others.Client(root=given.u8() % 2 == 0)
    for _ in range(3):
        request = dict(REQUESTS[given.u8() % len(REQUESTS)])
        for key in list(request):
            choice = given.u8()
            if key != "op" and choice % 4 == 0:
                request[key] = _text(given)
            elif key != "op" and choice % 16 == 1:
                request[key] = [_text(given), _text(given)]
        line = json.dumps(request, ensure_ascii=bool(given.u8() % 2))
        raw = line.encode("utf-8", "surrogatepass")
        loop.run_until_complete(others.request(server, raw, client))
        if given.empty:
            break
    others.raise_found()
    daemon = others.daemon()
    loop.run_until_complete(daemon.recorder.flush_queue())
    assert daemon.recorder.error is None, daemon.recorder.error
    for instance in daemon.activations.list_all():
        instance.record.vm.encode()
        assert instance.record.vm == DOMAIN.name
        instance.record.resource.encode()
        instance.record.fault_on.encode()


def _text(given: Input) -> str:
    encoding, errors = _ENCODINGS[given.u8() % len(_ENCODINGS)]
    data = given.take(given.u8())
    try:
        return data.decode(encoding, errors)
    except UnicodeDecodeError:
        return data.decode("latin-1")
