# SPDX-License-Identifier: GPL-2.0-or-later
"""More than one hypervisor on a host, and settings of theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest

from lab.standin import StandinTransport
from tests.host.standins import guest, until
from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.main import Daemon
from vesper_monitor.transport import Domain, TransportError


class Late(StandinTransport):
    """Has the domains, and comes up at the second try."""

    name = "late"
    tries: ClassVar[list[str]] = []

    def __init__(self, *, place: str = "nowhere") -> None:
        super().__init__()
        self.place = place

    async def start(self) -> None:
        self.tries.append(self.place)
        if len(self.tries) < 2:
            raise TransportError("not yet")
        await super().start()


class Empty(StandinTransport):
    """Has none."""

    name = "empty"

    async def domains(self) -> list[Domain]:
        return []

    async def find(self, name: str) -> Domain | None:
        return None


class Elsewhere(Empty):
    name = "elsewhere"

    @classmethod
    def usable(cls) -> str | None:
        return "does not run here"


def test_what_one_does_not_know_another_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "domains").mkdir()
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    Late.tries.clear()
    config = Config(
        socket=str(tmp_path / "socket"),
        journal=str(tmp_path / "journal"),
        probes_dir=str(tmp_path / "probes"),
        transport_settings={"late": {"place": "here"}, "empty": {"color": "red"}},
    )

    async def body() -> None:
        daemon = Daemon(config, {"empty": Empty, "elsewhere": Elsewhere, "late": Late})
        await daemon.activate("vm1", ())
        await daemon.activate("vm2", ())
        await daemon.start()
        # One whose settings are wrong says so, and which.
        await until(lambda: "color" in str(daemon.watch.transports()["empty"]), "trouble")
        assert "[empty]" in str(daemon.watch.transports()["empty"])
        await until(lambda: daemon.watch.transports()["late"] is None, "up")
        await until(lambda: daemon.watch.session_of("vm1"), "watched")
        assert daemon.watch.transports()["elsewhere"] == "does not run here"
        # Whether vm2 runs is not known while one transport is in trouble.
        assert daemon.activations.keys() == {"vm1", "vm2"}
        await daemon.stop()
        assert Late.tries == ["here", "here"]

        fine = {"late": {"place": "there"}}
        daemon = Daemon(
            Config(**{**vars(config), "transport_settings": fine}),
            {"empty": Empty, "elsewhere": Elsewhere, "late": Late},
        )
        Late.tries.clear()
        await daemon.start()  # the wishes are in the journal
        await until(lambda: daemon.watch.transports()["empty"] is None, "up")
        assert daemon.watch.transports()["late"] is not None
        assert daemon.activations.keys() == {"vm1", "vm2"}
        await until(lambda: daemon.activations.keys() == {"vm1"}, "vm2 is nowhere")
        await until(lambda: daemon.watch.session_of("vm1"), "watched")
        await daemon.stop()

    with guest("vm1"):
        asyncio.run(body())
