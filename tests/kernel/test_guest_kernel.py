# SPDX-License-Identifier: GPL-2.0-or-later
"""Core and probes in a real guest kernel: loading, records, errors, misuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kernel.support.machine import RAM_BYTES

Boot = Callable[..., Any]


def test_both_probes_record_real_faults(run: Boot) -> None:
    """Both probes with real faults, loaded over C-chan and unloaded again."""
    result = run(
        """\
hello
load send_signal /send_signal.ko
load out_of_memory /out_of_memory.ko
table
crash httpd
sh sh -c 'kill -TERM $$'
sh sh -c 'trap : TERM; kill -TERM $$'
sh sh -c 'trap "" TERM; kill -TERM $$'
sh sh -c 'kill -WINCH $$; kill -CHLD $$'
sh kill -KILL 1
records send_signal
sh tail /dev/zero
records out_of_memory
unload send_signal
unload out_of_memory
table
load send_signal /send_signal.ko quiet=0 fatal_only=1
sh sh -c 'trap : TERM; kill -TERM $$'
unload send_signal
sh ls -A / | tr '\\n' ' '; find / -xdev -name image.ko
"""
    )
    release = result.line("hello: 0").split(" | ")[0]
    assert result.line(f"hello: 0 {release} | ").startswith(f"{release} SMP ")
    assert result.line("channel send_signal:") == "4 * 16384 bytes, 2 CPUs"
    assert "table: 2 channels" in result.said
    assert "table: 0 channels" in result.said
    # twice each: the second load, of a module that had been unloaded
    assert result.said.count("load send_signal: 0 ") == 2
    assert result.said.count("unload send_signal: 0 ") == 2
    assert "image.ko" not in result.said

    signals = result.events("send_signal")
    crashed = int(result.line("crash httpd:"))
    segv, *others = [event.fields for event in signals]
    assert (segv["signal"], segv["comm"], segv["pid"]) == ("SIGSEGV", "httpd", crashed)
    assert (segv["addr"], segv["code"]) == (0x10010, 2)
    assert segv["fatal"] and segv["from_kernel"] and not segv["group"]
    assert segv["parent_comm"] == segv["leader_comm"].replace("httpd", "vsp_host")

    # killed; handled; ignored; WINCH and CHLD are not recorded; init cannot be killed
    term = [event for event in others if event["signal"] == "SIGTERM"]
    assert [event["fatal"] for event in term] == [True, False, False]
    assert all(event["sender_pid"] == event["pid"] for event in term)
    assert not [event for event in others if event["signal"] in ("SIGWINCH", "SIGCHLD")]
    (kill,) = [event for event in others if event["signal"] == "SIGKILL"]
    assert (kill["pid"], kill["fatal"]) == (1, False)

    (oom,) = [event.fields for event in result.events("out_of_memory")]
    assert (oom["comm"], oom["asker_comm"], oom["constraint"]) == ("tail", "tail", "system")
    assert oom["parent_comm"] == "sh" or oom["parent_comm"] == "vsp_host"
    assert 0 < oom["free_kb"] < oom["anon_rss_kb"] < oom["total_kb"] < RAM_BYTES >> 10


def test_images_that_cannot_be_loaded_are_refused(run: Boot, modules: dict[str, Path]) -> None:
    """What cannot be loaded gives the guest kernel's own error and harms nothing."""
    image = modules["out_of_memory.ko"].read_bytes()
    # The release is not compared where symbols have checksums (MODVERSIONS); the rest is.
    foreign = image.replace(b" mod_unload ", b" mod_unlost ")
    assert foreign != image
    result = run(
        """\
load send_signal /send_signal.ko
load send_signal /send_signal.ko
corrupt out_of_memory /out_of_memory.ko
load shell /init
load half /half.ko
load foreign /foreign.ko
load bad/name /send_signal.ko
unload nobody
request 99 1
request 1 7
request 4 1
load send_signal /send_signal.ko n_subbufs=9
unload send_signal
load send_signal /send_signal.ko n_subbufs=9
load out_of_memory /out_of_memory.ko
table
""",
        files={"half.ko": image[:5000], "foreign.ko": foreign},
    )
    loads = [line for line in result.said if line.startswith("load ")]
    assert loads[0] == "load send_signal: 0 "
    assert loads[1] == "load send_signal: -17 "  # EEXIST
    assert loads[2] == "load out_of_memory: -74 "  # EBADMSG: checksum
    assert loads[3].startswith("load shell: -8 ")  # ENOEXEC
    assert loads[4].startswith("load half: -8 ")
    assert loads[5].startswith("load foreign: -8 out_of_memory: version magic '")
    assert loads[6] == "load bad/name: -22 "
    assert loads[7] == "load send_signal: -17 "
    assert loads[8] == "load send_signal: -22 send_signal: cannot export the relay channel: -22"
    assert loads[9] == "load out_of_memory: 0 "
    assert result.line("unload nobody:") == "-2"
    assert result.line("request 99:") == "-95"  # EOPNOTSUPP
    assert result.line("request 1:") == "-71"  # EPROTO: another version
    assert result.line("request 4:") == "-22"  # a LOAD of nothing
    assert result.line("table:") == "1 channels"


def test_root_forbids_modules_to_the_kernels_helpers(run: Boot) -> None:
    """kernel.usermodehelper.bset without CAP_SYS_MODULE, for the rest of the guest's life."""
    result = run(
        """\
load die /die.ko
sh echo "4294901759 $(cut -f2 /proc/sys/kernel/usermodehelper/bset)" \
>/proc/sys/kernel/usermodehelper/bset
load lockup /lockup.ko
unload die
"""
    )
    assert "load die: 0 " in result.said
    assert "load lockup: -1 " in result.said  # EPERM
    assert "unload die: -1 " in result.said


def test_probes_load_without_user_space(run: Boot) -> None:
    """Loading needs no file, no device and no other process of the guest's."""
    result = run(
        """\
sh umount /sys; rm -rf /bin /sbin /etc /dev /init /script /*.ko
sh true
load send_signal /host/send_signal.ko
crash alone
records send_signal
unload send_signal
load out_of_memory /host/out_of_memory.ko
""",
        setup="mkdir /host; mount -t tmpfs host /host; cp /*.ko /host",
    )
    assert "sh: 32512" in result.said  # 127: there is no shell any more
    assert [event.fields["comm"] for event in result.events("send_signal")] == ["alone"]
    assert result.line("unload send_signal:") == "0"
    assert result.line("load out_of_memory:") == "0"


def test_a_link_that_is_lost_comes_back(run: Boot) -> None:
    """Channels outlive the transport, and loading works with insmod and no host."""
    result = run(
        """\
table
crash first
reopen
crash second
records send_signal
unload send_signal
reopen
table
""",
        setup="insmod /send_signal.ko",
    )
    assert "channel send_signal: 4 * 16384 bytes, 2 CPUs" in result.said
    crashed = [event.fields["comm"] for event in result.events("send_signal")]
    assert sorted(crashed) == ["first", "second"]
    assert result.said.count("table: 1 channels") == 1
    assert result.said.count("table: 0 channels") == 1


def test_old_records_are_overwritten(run: Boot) -> None:
    """A buffer that nobody reads keeps the newest records; seq counts all."""
    result = run(
        """\
load send_signal /send_signal.ko subbuf_size=4096 n_subbufs=2 max_per_s=1000
sh trap : TERM; i=0; while [ $i -lt 200 ]; do kill -TERM $$; i=$((i + 1)); done
records send_signal
""",
        cpus=1,
    )
    numbers = [event.seq for event in result.events("send_signal")]
    assert numbers == list(range(numbers[0], 200))
    assert 20 <= len(numbers) <= 50


def test_a_cpu_that_comes_up_gets_its_buffer(run: Boot) -> None:
    """A CPU that comes up later has its buffer shared, too."""
    result = run(
        """\
load send_signal /send_signal.ko
sh echo 1 >/sys/devices/system/cpu/cpu1/online
sh taskset 2 sh -c 'kill -TERM $$'
records send_signal
""",
        setup="echo 0 >/sys/devices/system/cpu/cpu1/online",
    )
    assert [(event.cpu, event.fields["fatal"]) for event in result.events("send_signal")] == [
        (1, True)
    ]


def test_what_cannot_be_shared_is_tried_again(run: Boot) -> None:
    """A buffer or a channel that cannot be shared takes no other with it, and has another try."""
    refuse = "sh echo {} >/sys/module/vsp_loopback/parameters/refuse_nth".format
    online = "/sys/devices/system/cpu/cpu1/online"
    result = run(
        f"""\
load send_signal /send_signal.ko
{refuse(1)}
sh echo 1 >{online}
sh taskset 1 sh -c 'kill -TERM $$'
sh taskset 2 sh -c 'kill -TERM $$'
records send_signal
reopen
sh echo again
records send_signal
{refuse(4)}
reopen
sh echo of one CPU
records send_signal
{refuse(2)}
reopen
table
reopen
table
unload send_signal
""",
        setup=f"echo 0 >{online}",
    )
    cpus: list[int] = []
    others: list[list[int]] = []
    for line in result.said:
        if line in ("again", "of one CPU"):
            others.append(cpus)
            cpus = []
        elif line.startswith("record send_signal "):
            cpus.append(int(line.split()[2]))
    # CPU 1 came up; all was shared anew; CPU 1's was the fourth; the index was the second.
    assert [*others, cpus] == [[0], [0, 1], [0]]
    assert [line for line in result.said if line.startswith("table:")] == [
        "table: 0 channels", "table: 1 channels",
    ]  # fmt: skip
    assert "vesper: send_signal: records of CPU 1 stay in the guest: -28" in result.console
    assert "vesper: send_signal: records stay in the guest: -28" in result.console
    assert result.line("unload send_signal:") == "0"


def test_a_host_that_notifies_for_nothing(run: Boot) -> None:
    """The transport learns of it, and of each notification that was not for nothing."""
    counters = "cd /sys/module/vsp_loopback/parameters; sleep 1; echo counted $(cat useful useless)"
    result = run(f"sh {counters}\nhello\nsh {counters}\npoke\nsh {counters}\n", cpus=1)
    counted = [line.split() for line in result.said if line.startswith("counted ")]
    (_, before, _), (_, asked, useless), (_, after, poked) = counted
    assert int(asked) > int(before)
    assert (int(after), int(poked)) == (int(asked), int(useless) + 1)


def test_wrong_calls_of_the_api_are_refused(run: Boot) -> None:
    """Wrong calls of the probes' API: the module loads only if each gave what it should."""
    result = run(
        """\
load vsp_misuse /vsp_misuse.ko
table
unload vsp_misuse
load vsp_misuse /vsp_misuse.ko leave=1
unload vsp_misuse
records vsp_misuse
"""
    )
    assert result.said.count("load vsp_misuse: 0 ") == 2
    assert result.said.count("unload vsp_misuse: 0 ") == 2
    assert result.line("table:") == "0 channels"
    assert "vesper: vsp_misuse was unloaded without vsp_relay_export_end()" in result.console
