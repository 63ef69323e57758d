# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile guest under a real session: it harms nobody, in whatever order it does what.

``VESPER_HOSTILE=1000`` makes it as many examples (about 50 steps each).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lab.standin.image import make_store
from lab.standin.transport import StandinLink
from tests.unit.support.hostile import ANSWERS, Host, impatient
from vesper_monitor.guest import abi
from vesper_monitor.guest.relay import positions

#: s after which a healthy guest is heard at the latest, on a busy machine.
HEARD = 5.0
#: Entries of whatever a session keeps of a guest's names.
MOST_NAMES = 64
#: Lines of the log of one example; the daemon's own limit is 20 and one a second.
MOST_LINES = 200

numbers = st.one_of(
    st.integers(0, 64), st.sampled_from([4095, 4096, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31,
                                         (1 << 32) - 1]),
)  # fmt: skip
longs = st.one_of(numbers, st.integers(0, (1 << 64) - 1))
entries = st.builds(
    lambda state, generation, size, number, cpus, handle, name: abi.Channel(
        state=state, generation=generation, subbuf_size=size, n_subbufs=number, nr_cpus=cpus,
        index=abi.Region(handle=handle, pages=1), modname=name,
    ),
    state=st.integers(0, 3),
    generation=numbers,
    size=st.sampled_from([0, 24, 4096, 16384, 1 << 20, (1 << 32) - 8]),
    number=st.integers(0, 9),
    cpus=st.integers(0, 3),
    handle=longs,
    name=st.binary(max_size=55),
)  # fmt: skip


class Hostile(RuleBasedStateMachine):
    """
    :cvar host: common to all examples.
    """

    host: ClassVar[Host]

    @initialize()
    def begin(self) -> None:
        self.guest = self.host.enter()

    def teardown(self) -> None:
        self.host.leave()

    @rule(page=st.integers(0, 40), offset=st.integers(0, 4095), data=st.binary(max_size=300))
    def scribbles(self, page: int, offset: int, data: bytes) -> None:
        self.guest.inside.scribble(page, offset, data)
        self.host.step()

    @rule(probe=st.sampled_from(["send_signal", "out_of_memory"]), position=longs)
    def moves_a_ring(self, probe: str, position: int) -> None:
        self.guest.inside.set_position(probe, position)
        self.host.step()

    @rule(probe=st.sampled_from(["send_signal", "out_of_memory"]), handles=st.lists(longs))
    def moves_a_buffer(self, probe: str, handles: list[int]) -> None:
        for handle in handles:
            self.guest.inside.set_buffer(probe, handle)
            self.host.step(0.001)

    @rule(number=st.integers(0, abi.MAX_CHANNELS - 1), entry=entries)
    def exports(self, number: int, entry: abi.Channel) -> None:
        self.guest.inside.set_channel(number, entry)
        self.host.step()

    @rule(start=st.integers(0, 1 << 20))
    def exports_names_without_end(self, start: int) -> None:
        for number in range(20):
            for place in range(abi.MAX_CHANNELS):
                entry = abi.Channel(
                    state=abi.ChannelState.OPEN, generation=1, subbuf_size=4096, n_subbufs=2,
                    nr_cpus=1, index=abi.Region(handle=1 << 40, pages=1),
                    modname=b"%d-%d-%d" % (start, number, place),
                )  # fmt: skip
                self.guest.inside.set_channel(place, entry)
            self.host.step(0.001)

    @rule(how=st.sampled_from(ANSWERS))
    def answers(self, how: str) -> None:
        self.guest.inside.answers = how
        self.host.step()

    @rule(count=st.sampled_from([1, 5000, 1_000_000]))
    def notifies(self, count: int) -> None:
        self.guest.flood(count)
        self.host.step()

    @rule()
    def drops_its_link(self) -> None:
        self.guest.drop_link()
        self.host.step(0.05)

    @rule(words=st.sampled_from(["rmmod send_signal", "rmmod out_of_memory", "hide send_signal",
                                 "show send_signal", "life off", "life on", "state paused",
                                 "state running", "words oops x", "words panic y"]))  # fmt: skip
    def obeys(self, words: str) -> None:
        self.host.run(self.guest._obey_command(words.split()))
        self.host.step()

    @rule(count=st.integers(1, 3000))
    def writes_records(self, count: int) -> None:
        self.guest.inside.emit_event(
            "send_signal", {"count": str(count), "comm": "httpd", "fatal": "1"}
        )
        self.host.step()

    @invariant()
    def the_session_goes_on(self) -> None:
        watched = self.host.hostile
        if watched is not None:
            assert not watched.task.done(), watched.task
        assert not self.host.healthy.task.done()
        assert self.host.log.internal == []

    @invariant()
    def nothing_grows(self) -> None:
        watched = self.host.hostile
        if watched is None:
            return
        session = watched.session
        assert len(session.probes) <= MOST_NAMES
        assert len(session._probes._retry_at) <= MOST_NAMES
        assert len(session._probes._retry_pause_s) <= MOST_NAMES
        assert len(session._reader.channels) <= abi.MAX_CHANNELS
        assert len(session.positions) <= positions.MAX_CLOSED_CHANNELS + 100
        assert len(session._reader.collector._unwritten) <= positions.MAX_CLOSED_CHANNELS
        link = session.guest.link if session.guest is not None else None
        assert link is None or (isinstance(link, StandinLink) and len(link._maps) <= MOST_NAMES)
        assert len(self.host.log.lines) <= MOST_LINES

    @invariant()
    def another_guest_is_heard(self) -> None:
        assert max(self.host.latencies, default=0.0) <= HEARD


Hostile.TestCase.settings = settings(
    max_examples=int(os.environ.get("VESPER_HOSTILE", "8")), stateful_step_count=40, deadline=None
)


class TestHostile(Hostile.TestCase):  # type: ignore[misc, valid-type]
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        folder = Path(cls.folder.name)
        cls.before = os.environ.get("VESPER_STANDIN_DIR")
        os.environ["VESPER_STANDIN_DIR"] = str(folder / "domains")
        (folder / "domains").mkdir()
        make_store(folder / "images")
        cls.patience = impatient()
        cls.patience.__enter__()
        Hostile.host = Host(folder / "images")

    @classmethod
    def tearDownClass(cls) -> None:
        for what, latencies in (
            ("disturbed", Hostile.host.latencies),
            ("not disturbed", Hostile.host.undisturbed),
        ):
            ms = sorted(latency * 1e3 for latency in latencies)
            print(
                f"healthy guest, {what}, {len(ms)} events: heard after {ms[len(ms) // 2]:.1f} ms "
                f"(median), {ms[len(ms) * 99 // 100]:.1f} ms (p99), {ms[-1]:.0f} ms (longest)"
            )
        Hostile.host.close()
        cls.patience.__exit__(None, None, None)
        if cls.before is None:
            del os.environ["VESPER_STANDIN_DIR"]
        else:
            os.environ["VESPER_STANDIN_DIR"] = cls.before
        cls.folder.cleanup()
