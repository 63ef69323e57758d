# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the channels of one guest, in rounds, as far as the guest's read budget allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from vesper_monitor.guest.control.commands import GuestControl
from vesper_monitor.guest.read_budget import ReadBudget
from vesper_monitor.guest.relay.channel import ChannelEntry, ChannelReader
from vesper_monitor.guest.relay.collector import Collector
from vesper_monitor.guest.relay.positions import Position
from vesper_monitor.guest.relay.raw_stream import RawStream
from vesper_monitor.guest.session_listener import SessionListener
from vesper_monitor.hypervisor.transport import Link

__all__ = ["SessionReader", "wait_for_event"]

#: Rounds of reading before the link is closed, or a channel that is being unloaded.
MAX_REST_ROUNDS = 256
#: Rounds of reading just before a channel is closed that has left the table.
#: They follow on the rest, and nothing else runs between them.
MAX_LAST_ROUNDS = 8
#: s between two readings of a channel table that keeps changing, at least.
TABLE_INTERVAL_S = 0.1
#: The same in times of what the last reading of the table took.
TABLE_INTERVAL_RATIO = 4.0


class SessionReader:
    """Reads one guest's channels and hands the events on.

    :ivar collector: the open channels.
    """

    def __init__(
        self,
        collector: Collector,
        raw: RawStream,
        listener: SessionListener,
    ) -> None:
        """
        :param raw: the one that the collector feeds.
        """
        self.collector = collector
        self._raw = raw
        self._listener = listener
        self._guest: GuestControl | None = None
        self._has_lost_link = False
        self._woken = asyncio.Event()  # the guest has notified, or the session wants a look
        self._is_idle = False  # wait_until_woken() waits
        self._budget = ReadBudget()
        self._table_at = 0.0  # CLOCK_MONOTONIC: the table is not read before
        self._table_delay: float | None = None  # s to the next reading; None: no change

    @property
    def channels(self) -> dict[str, ChannelReader]:
        """The open channels, by probe."""
        return self.collector.channels

    @property
    def positions(self) -> dict[Position, int]:
        """Next sequence numbers of all buffers of this boot of the guest core."""
        return self.collector.read_positions()

    @property
    def is_asleep(self) -> bool:
        """Whether the guest is about to be suspended: the next host reads what it writes now."""
        return self._guest is not None and self._guest.cchan.asleep

    # ------------------------------------------------------------ the link

    def begin_link(self, guest: GuestControl) -> None:
        """Read this guest from now on."""
        self._guest, self._has_lost_link = guest, False
        self._table_at, self._table_delay = 0.0, None

    def lose_link(self) -> None:
        """Note that the link is lost, and end the wait of :meth:`wait_until_woken`."""
        self._has_lost_link = True
        self._woken.set()

    def end_link(self) -> None:
        """Read no more: the link is about to be closed."""
        self._guest = None
        self.collector.leave_link()

    def open_channel(self, link: Link, entry: ChannelEntry) -> ChannelReader:
        """:raises TransportError: the guest has not shared what its table names."""
        return self.collector.open_channel(link, entry)

    def close(self) -> None:
        """End all readers of raw records."""
        self._raw.close()

    def subscribe_raw(
        self, probe: str, cpu: int | None = None
    ) -> AsyncIterator[tuple[int, int, bytes]]:
        """Return (cpu, seq, record) as they are read; a slow reader loses some."""
        return self._raw.subscribe_reader(probe, cpu)

    # ------------------------------------------------------------ waiting

    def wake_up(self) -> None:
        """Look at the guest again soon."""
        self._woken.set()

    def note_notification(self) -> None:
        """Read at once if the guest has notified of records, as a rule, else wake the reader."""
        guest = self._guest
        if guest is not None:
            guest.cchan.wake_up()
            now = time.monotonic()
            if (
                self._is_idle
                and not guest.table.has_changed()
                and not self._budget.pause_needed(now)
            ):
                # The reading task would do so a turn of the loop later. It sleeps on.
                guest.cchan.arm_notification()
                has_more = self.drain_channels()
                self._budget.take_time(now, time.monotonic())
                if not has_more:
                    return
        self._woken.set()

    async def sleep_until_woken(self, limit_s: float) -> None:
        """Sleep, also while there is no link."""
        self._woken.clear()
        await wait_for_event(self._woken, limit_s)

    async def wait_until_woken(self) -> None:
        """Wait after a round until the guest notifies, or its table may be read again."""
        self._is_idle = True
        try:
            await wait_for_event(self._woken, self._table_delay)
        finally:
            self._is_idle = False

    async def keep_budget(self, *, has_more: bool) -> None:
        """Sleep between two rounds as long as the read budget demands."""
        pause = self._budget.pause_needed(time.monotonic())
        if has_more or pause:
            await asyncio.sleep(pause)

    # ------------------------------------------------------------ reading

    async def read_round(
        self, guest: GuestControl, follow_table: Callable[[GuestControl], None]
    ) -> bool:
        """Read what the guest has now, in bounded time.

        :param follow_table: called where the channel table has changed; opens
            and closes channels.
        :returns: whether there is more.
        """
        self._woken.clear()
        guest.cchan.arm_notification()
        begin = time.monotonic()
        self._table_delay = None
        if guest.table.has_changed():
            self._table_delay = max(0.0, self._table_at - begin)
        if self._table_delay == 0.0:
            await self.read_rest()  # of channels that have left the table
            if self._guest is not guest or self._has_lost_link:
                return True
            follow_table(guest)
            now, self._table_delay = time.monotonic(), None
            self._table_at = now + max(TABLE_INTERVAL_S, TABLE_INTERVAL_RATIO * (now - begin))
        has_more = self.drain_channels()
        self._budget.take_time(begin, time.monotonic())
        return has_more

    def drain_channels(self) -> bool:
        """Read one bounded round of all channels.

        :returns: whether there is more.
        """
        if self.is_asleep:
            return False
        events, has_more = self.collector.read_events()
        if self.is_asleep:
            # Since when is unknown. The next host sees no position that is stored from
            # now on, so that host reports these records. It has no crash log to read.
            self.collector.take_back()
            events, has_more = [event for event in events if event.words is not None], False
        if events:
            self._listener.take_events(events)
            for channel, cpu, next_seq in self.collector.take_reads():
                channel.note_written(cpu, next_seq)
        return has_more

    def drain_rest(self, max_rounds: int = MAX_REST_ROUNDS) -> None:
        """Read all there is, in a bounded number of rounds, without a break."""
        for _ in range(max_rounds):
            if not self.drain_channels():
                break

    async def read_rest(self) -> None:
        """Read all there is, in a bounded number of rounds; other tasks run between them."""
        for _ in range(MAX_REST_ROUNDS):
            if not self.drain_channels():
                break
            await asyncio.sleep(0)

    def read_crash_log(self) -> None:
        """Read what the kernel of a dead guest has left, while it is mapped."""
        if events := self.collector.read_words(final=True):
            self._listener.take_events(events)

    def rewind_to_written(self) -> None:
        """Read again what was read and not written, as far as the guest still has it."""
        self.collector.rewind_to_written()
        self._woken.set()


async def wait_for_event(event: asyncio.Event, limit_s: float | None) -> None:
    """Return when the event is set, or after ``limit_s`` (None: no limit)."""
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        pass
