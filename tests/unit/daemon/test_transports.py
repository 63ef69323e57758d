# SPDX-License-Identifier: GPL-2.0-or-later
"""More than one hypervisor on a host, and settings of theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lab.standin.image import make_store
from lab.standin.transport import StandinTransport
from tests.unit.support.daemons import MONITOR, RESOURCE
from tests.unit.support.standins import GuestProcess, guest, until
from vesper_monitor.client import Client, DaemonError
from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.daemon import Daemon
from vesper_monitor.hypervisor.transport import Domain, DomainReport, TransportError


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

    async def list_domains(self) -> list[Domain]:
        return []

    async def find_domain(self, name: str) -> Domain | None:
        return None


class Hung(StandinTransport):
    """Once told so, its toolstack answers nobody."""

    name = "hung"
    hangs = False

    async def find_domain(self, name: str) -> Domain | None:
        if self.hangs:
            raise TransportError("no answer")
        return await super().find_domain(name)

    async def report_domain(self, domain: Domain) -> DomainReport:
        if self.hangs:
            raise TransportError("no answer")
        return await super().report_domain(domain)


class Elsewhere(Empty):
    name = "elsewhere"

    @classmethod
    def explain_unusable(cls) -> str | None:
        return "does not run here"


def test_a_domain_is_looked_for_in_each_transport(
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
        await daemon.operators.activate_vm("vm1", ())
        await daemon.operators.activate_vm("vm2", ())
        await daemon.start()
        # One whose settings are wrong says so, and which.
        await until(
            lambda: "color" in str(daemon.sessions.transports.list_states()["empty"]), "trouble"
        )
        assert "[empty]" in str(daemon.sessions.transports.list_states()["empty"])
        await until(lambda: daemon.sessions.transports.list_states()["late"] is None, "up")
        await until(lambda: daemon.sessions.session_of("vm1"), "watched")
        assert daemon.sessions.transports.list_states()["elsewhere"] == "does not run here"
        # Whether vm2 runs is not known while one transport is in trouble.
        assert daemon.operators.activated.keys() == {"vm1", "vm2"}
        await daemon.stop()
        assert Late.tries == ["here", "here"]

        fine = {"late": {"place": "there"}}
        daemon = Daemon(
            Config(**{**vars(config), "transport_settings": fine}),
            {"empty": Empty, "elsewhere": Elsewhere, "late": Late},
        )
        Late.tries.clear()
        await daemon.start()  # the wishes are in the journal
        await until(lambda: daemon.sessions.transports.list_states()["empty"] is None, "up")
        assert daemon.sessions.transports.list_states()["late"] is not None
        assert daemon.operators.activated.keys() == {"vm1", "vm2"}
        await until(lambda: daemon.operators.activated.keys() == {"vm1"}, "vm2 is nowhere")
        await until(lambda: daemon.sessions.session_of("vm1"), "watched")
        await daemon.stop()

    with guest("vm1"):
        asyncio.run(body())


def test_a_fault_of_a_domain_that_was_replaced_meanwhile_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped and started while no daemon ran; a monitor comes before the hypervisor is asked."""
    (tmp_path / "domains").mkdir()
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    make_store(tmp_path / "probes")
    config = Config(
        socket=str(tmp_path / "socket"),
        journal=str(tmp_path / "journal"),
        probes_dir=str(tmp_path / "probes"),
        transport_settings={"late": {"place": "here"}},
    )

    async def ask(op: str, **fields: Any) -> dict[str, Any]:
        with Client(config.socket, timeout=20.0) as client:
            return await asyncio.to_thread(client.call_vesperd, op, **fields)

    async def fault(vm: GuestProcess) -> None:
        daemon = await begun()
        await until(lambda: daemon.sessions.transports.list_states()["late"] is None, "up")
        await ask("start", **RESOURCE)
        session = daemon.sessions.session_of("vm1")
        assert session is not None
        loaded = {"send_signal", "out_of_memory"}
        await until(lambda: session._reader.channels.keys() == loaded, "both probes")
        said = await vm.tell("emit", "send_signal", "sig=11", "comm=httpd", "fatal=1")
        assert said.startswith("ok"), said
        await until(lambda: daemon.activations.list_all()[0].fault_recorded, "the fault")
        assert (await ask("wait", **MONITOR))["result"] == "fault"
        await daemon.stop()

    async def begun() -> Daemon:
        Late.tries.clear()
        daemon = Daemon(config, {"late": Late})
        await daemon.start()
        return daemon

    async def monitor(expected: str) -> None:
        daemon = await begun()
        assert daemon.sessions.transports.list_states()["late"] is not None
        assert (await ask("wait", **MONITOR, first=False))["result"] == expected
        await daemon.stop()

    with guest("vm1") as vm:
        asyncio.run(fault(vm))
        asyncio.run(monitor("fault"))
    with guest("vm1"):
        asyncio.run(monitor("dead"))


def test_a_guest_that_shows_life_runs_whatever_its_toolstack_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "domains").mkdir()
    monkeypatch.setenv("VESPER_STANDIN_DIR", str(tmp_path / "domains"))
    config = Config(socket=str(tmp_path / "socket"), journal=str(tmp_path / "journal"))

    async def body(vm: GuestProcess) -> None:
        daemon = Daemon(config, {"hung": Hung})
        await daemon.operators.activate_vm("vm1", ())
        await daemon.start()
        await until(lambda: (s := daemon.sessions.session_of("vm1")) and s.alive, "signs of life")
        monkeypatch.setattr(Hung, "hangs", True)
        with Client(config.socket, timeout=20.0) as client:
            answer = await asyncio.to_thread(client.call_vesperd, "state", vm="vm1")
            assert answer["domain"]["state"] == "running"
            await vm.tell("life", "off")
            session = daemon.sessions.session_of("vm1")
            assert session is not None
            await until(lambda: not session.alive, "their end")
            with pytest.raises(DaemonError, match="no answer"):
                await asyncio.to_thread(client.call_vesperd, "state", vm="vm1")
        await daemon.stop()

    with guest("vm1") as vm:
        asyncio.run(body(vm))
