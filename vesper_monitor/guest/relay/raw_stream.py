# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams raw records to those who follow a relay channel on the host."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from vesper_monitor.guest.relay.relay import RawRecord

__all__ = ["RawStream"]

#: Records kept for a slow reader; then its oldest are dropped.
_MAX_QUEUED_RECORDS = 4096


class _Reader:
    def __init__(self, probe: str, cpu: int | None) -> None:
        self.probe = probe
        self.cpu = cpu
        self.records: deque[tuple[int, int, bytes]] = deque(maxlen=_MAX_QUEUED_RECORDS)
        self.news = asyncio.Event()


class RawStream:
    """Hands each record to every reader; a slow reader sees gaps in ``seq``."""

    def __init__(self) -> None:
        self._readers: set[_Reader] = set()
        self._closed = False

    def put_records(self, probe: str, cpu: int, records: Sequence[RawRecord]) -> None:
        for reader in self._readers:
            if reader.probe == probe and reader.cpu in (None, cpu):
                reader.records.extend((cpu, record.seq, record.data) for record in records)
                reader.news.set()

    def subscribe_reader(
        self, probe: str, cpu: int | None = None
    ) -> AsyncIterator[tuple[int, int, bytes]]:
        """Return an iterator of (cpu, seq, record), from now until :meth:`close`."""
        reader = _Reader(probe, cpu)
        self._readers.add(reader)
        return self._follow_reader(reader)

    def close(self) -> None:
        """End each reader once it has read what is queued."""
        self._closed = True
        for reader in self._readers:
            reader.news.set()

    async def _follow_reader(self, reader: _Reader) -> AsyncIterator[tuple[int, int, bytes]]:
        try:
            while True:
                while reader.records:
                    yield reader.records.popleft()
                if self._closed:
                    return
                reader.news.clear()
                await reader.news.wait()
        finally:
            self._readers.discard(reader)
