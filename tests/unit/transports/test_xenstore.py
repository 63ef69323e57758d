# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection to a xenstored that hangs: callers get an error, and the thread is free again."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.support.standins import until
from xen_transport import xenstore
from xen_transport.xenstore import XenStore, XenStoreError


@pytest.fixture
def silent_xenstored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a xenstored to which one can connect, and which never answers."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "socket"))
    monkeypatch.setattr(xenstore, "STORE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(xenstore, "_RECONNECT_PAUSE_S", 0.05)
    with listener:
        yield


@pytest.mark.usefixtures("silent_xenstored")
def test_a_call_that_is_not_answered_fails_and_frees_the_thread() -> None:
    async def read_twice() -> None:
        store = XenStore()
        await store.start()
        first = store._router
        with pytest.raises(XenStoreError, match="did not answer within"):
            await store.read_node("/local/domain/1/name")
        await until(lambda: store._router not in (None, first), "reconnected")
        with pytest.raises(XenStoreError, match="did not answer within"):
            await store.read_node("/local/domain/1/name")
        await store.stop()

    asyncio.run(read_twice())


@pytest.mark.usefixtures("silent_xenstored")
def test_stop_ends_the_connection() -> None:
    async def start_and_stop() -> threading.Thread:
        store = XenStore()
        await store.start()
        assert store._router is not None
        reader: threading.Thread = store._router.thread
        await store.stop()
        return reader

    reader = asyncio.run(start_and_stop())
    reader.join(5)
    assert not reader.is_alive()
