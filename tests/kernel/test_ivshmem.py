# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole link to a guest on QEMU: its kernel, the device, the holder, the session."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
from pathlib import Path

from kvm_transport.ivshmem_client import IvshmemClient
from tests.kernel.support.features import (
    CGROUP,
    CPU1,
    KILLED,
    cpus_go_and_come,
    said,
    shows_life,
    unimpaired,
)
from tests.kernel.support.ivshmem import PROBES, SLOW, KvmMachine, Watch, kvm_machine, watch
from tests.kernel.support.loopback_guest import TestGuest
from tests.kernel.support.machine import takes_new_cpus
from tests.unit.support.standins import until
from vesper_monitor.guest import abi
from vesper_monitor.guest.session_state import SessionState

CMDLINE = "panic=0 suspend.pm_test_delay=1"


async def faults(guest: KvmMachine, seen: Watch) -> None:
    """The first two probes, loaded without a user space, with real faults."""
    await seen.collecting(*PROBES)
    # process_exit tells of those that have lived for a second.
    of_age = KILLED.replace("exec", "sleep 1; exec")
    guest.machine.tell(f"{CGROUP}; sh -c 'kill -SEGV $$'; {of_age}")
    await seen.see(lambda: seen.of("out_of_memory", comm="tail"), "OOM")
    await seen.see(lambda: seen.of("send_signal", signal="SIGSEGV", comm="sh"), "SIGSEGV")
    await seen.see(lambda: seen.of("process_exit", comm="tail", signal="SIGKILL"), "exit")
    # Unloaded, and loaded a second time.
    await seen.collecting("send_signal")
    await seen.collecting("send_signal", "out_of_memory")
    seen.events.clear()
    guest.machine.tell(KILLED)
    await seen.see(lambda: seen.of("out_of_memory", comm="tail"), "OOM, second load")


async def garbage(guest: KvmMachine) -> None:
    """Whatever the host writes into the shared memory, this kernel lives and ends in order."""
    attachment = await IvshmemClient(guest.holder.control).attach_to_qemu(guest.machine.process.pid)
    noise = random.Random(5).randbytes(attachment.size - abi.PAGE_SIZE)
    for _ in range(3):
        os.pwrite(attachment.memory, noise, abi.PAGE_SIZE)
        os.eventfd_write(attachment.to_guest, 1)
        guest.machine.tell(f"sh -c 'kill -USR1 $$'; echo 0 >{CPU1}; echo 1 >{CPU1}")
    await said(guest, "scribbled")
    # The host begins anew, and then all is as before.
    os.pwrite(attachment.memory, bytes(4), abi.field_offset(abi.ShmHead, "wanted"))
    os.eventfd_write(attachment.to_guest, 1)
    size = ctypes.sizeof(abi.ShmHead)

    def state() -> int:
        return abi.ShmHead.from_buffer_copy(os.pread(attachment.memory, size, 0)).state

    await until(lambda: state() == abi.ShmState.IDLE, "deactivated", SLOW)
    attachment.close()


def plain_device(directory: Path) -> list[str]:
    """A device that has VESPER's mark and no interrupt, as QEMU's arguments."""
    size = 1 << 20
    head = abi.ShmHead(mark=abi.SHM_MAGIC)
    (directory / "plain").write_bytes(bytes(head).ljust(size, b"\0"))
    return [
        "-object", f"memory-backend-file,id=plain,size={size},mem-path={directory}/plain,share=on",
        "-device", "ivshmem-plain,memdev=plain",
    ]  # fmt: skip


def test_probes_record_over_ivshmem(test_guest: TestGuest, tmp_path: Path) -> None:
    """One guest, from the first load to the unloading of the modules."""

    async def body(guest: KvmMachine) -> None:
        # The three regions of the device that it has; none of the one that it refused.
        guest.machine.tell("echo regions $(grep -c vesper_ivshmem /proc/iomem)")
        await said(guest, "counted")
        assert "needs an ivshmem-doorbell" in guest.machine.console
        assert "\nregions 3\n" in guest.machine.console
        async with watch(guest) as seen:
            await faults(guest, seen)
            await shows_life(seen)
            await cpus_go_and_come(guest, seen, plugged_in=plugged_in)
            hello, positions = seen.session.hello, seen.session.positions
        # Nobody is there; the guest goes on as before.
        guest.machine.tell("sh -c 'kill -USR1 $$'")
        await said(guest, "between")
        async with watch(guest, positions) as seen:
            assert hello is not None and seen.session.hello is not None
            assert seen.session.hello.boot_id == hello.boot_id
            await seen.see(lambda: seen.of("send_signal", signal="SIGUSR1"), "what was missed")
            guest.holder.kill()
            guest.machine.tell("sh -c 'kill -USR2 $$'")
            await seen.see(lambda: seen.of("send_signal", signal="SIGUSR2"), "without the holder")
            assert len(seen.events) == 2
            assert seen.session.state is SessionState.ACTIVE
            await seen.session.close_session(deactivate=True)
        guest.machine.tell("rmmod vesper_ivshmem && rmmod vesper && echo unloaded")
        guest.machine.tell("grep vesper /proc/iomem")
        guest.machine.tell("insmod /vesper.ko && insmod /vesper_ivshmem.ko && echo loaded")
        await said(guest, "end")
        # The kernel says in between that it refuses the other device.
        own = [line for line in guest.machine.console.splitlines() if not line.startswith("[")]
        assert own[own.index("unloaded") + 1] == "loaded"
        await unimpaired(guest)

    plugged_in = takes_new_cpus(test_guest.kernel.release)
    with kvm_machine(
        test_guest.kernel, test_guest.files, tmp_path, cpus=2 if plugged_in else 3, max_cpus=3,
        cmdline="maxcpus=2", qemu=plain_device(tmp_path),
    ) as guest:  # fmt: skip
        asyncio.run(body(guest))


def test_the_device_goes_and_comes(test_guest: TestGuest, tmp_path: Path) -> None:
    """Unplugged and plugged in, suspended and resumed; last words; with probes loaded."""

    async def body(guest: KvmMachine) -> None:
        async with watch(guest) as seen:
            await seen.collecting("send_signal")
            guest.machine.tell("sh -c 'kill -USR1 $$'")
            await seen.see(lambda: seen.of("send_signal", signal="SIGUSR1"), "an event")
            guest.unplug()
            await seen.see(lambda: seen.session.state is not SessionState.ACTIVE, "lost")
            await until(guest.unplugged, "unplugged", SLOW)
            guest.machine.tell("sh -c 'kill -USR2 $$'")
            await said(guest, "unplugged")
            guest.plug_in()
            await seen.see(lambda: seen.session.state is SessionState.ACTIVE, "active again")
            await seen.see(lambda: seen.of("send_signal", signal="SIGUSR2"), "kept meanwhile")

            seen.states.clear()
            # All but the sleep itself (Documentation/power/basic-pm-debugging.rst): a
            # kernel that QEMU was given directly is not found again by its firmware.
            guest.machine.tell("echo processors >/sys/power/pm_test; echo mem >/sys/power/state")
            await seen.see(lambda: SessionState.WAITING in seen.states, "suspended")
            await seen.see(lambda: seen.session.state is SessionState.ACTIVE, "resumed")
            guest.machine.tell("sh -c 'kill -HUP $$'")
            await seen.see(lambda: seen.of("send_signal", signal="SIGHUP"), "after the resume")
            assert [e.fields["signal"] for e in seen.events] == ["SIGUSR1", "SIGUSR2", "SIGHUP"]
            await unimpaired(guest)

        await garbage(guest)
        async with watch(guest) as seen:
            await seen.collecting("send_signal")
            await seen.session.unload_probe("send_signal")  # its buffers are full of it
            await seen.collecting("send_signal")
            guest.machine.tell("sh -c 'kill -HUP $$'")
            await seen.see(lambda: seen.of("send_signal", signal="SIGHUP"), "after the garbage")
            await unimpaired(guest)
            guest.machine.tell("echo c >/proc/sysrq-trigger")
            await seen.see(lambda: seen.of("last_words", kind="panic"), "last words")

    with kvm_machine(test_guest.kernel, test_guest.files, tmp_path, cmdline=CMDLINE) as guest:
        asyncio.run(body(guest))
