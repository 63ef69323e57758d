# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``vesper``: its command line and its exit status.

The commands themselves are beside this file: ``show.py`` (those that only
read), ``control.py`` (those that change something), ``incident.py`` (``vesper
why``), ``rules.py`` and ``advise.py``.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import NoReturn

from vesper_monitor import __version__
from vesper_monitor.client import Client, DaemonError, DaemonUnavailableError, default_path
from vesper_monitor.command import advise, control, incident, rules, show
from vesper_monitor.command.options import add_json_option
from vesper_monitor.guest.control.images import DEFAULT_ROOT, ImageError

__all__ = ["build_parser", "main"]

#: Exit status.
OK = 0
FAILED = 1
USAGE = 2
NOT_RUNNING = 3

_EPILOG = """\
exit status:
  0  success
  1  failure; standard error says what failed and why
  2  wrong command line
  3  vesperd is not running or does not answer

examples:
  vesper status                      show which VMs are watched, and how well
  vesper events -f --vm vm1          follow the events of vm1
  vesper faults --json               list the faults that were reported to the cluster
  vesper faults 12                   show all details of fault 12
  vesper why vm1                     explain the last fault, up to the end of the failover
  vesper faults clear vm1            mark the fault of resource vm1 as over
  vesper probe build 6.1.0-56-amd64  build probe images for guests with that kernel
  vesper rules check -e 'block_error: 3 in 60s'  list events that would have been faults
  vesper advise vm1 --symptom "disk errors"      propose probes and rules
  vesper probe add vm1 'do_exit code=$arg1:s64'  load a probe that you define
  vesper relay cat vm1 send_signal   write raw records of a probe
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see: {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = _Parser(
        prog="vesper",
        description="Show what vesperd sees inside the virtual machines of this host, and "
        "control it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vesper {__version__}")
    top.add_argument(
        "--socket",
        default=default_path(),
        metavar="PATH",
        help="vesperd's socket (default: %(default)s)",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    status = commands.add_parser("status", help="show which VMs are watched, and how well")
    status.add_argument("vm", nargs="?", metavar="VM", help="show only this VM")
    add_json_option(status)
    status.set_defaults(run=show.show_status)

    events = commands.add_parser("events", help="show decoded events of the guests")
    events.add_argument(
        "-f", "--follow", action="store_true", help="continue with new events as they happen"
    )
    events.add_argument("--vm", metavar="VM", help="show only events of this VM")
    events.add_argument(
        "-n", "--limit", type=_parse_count, metavar="N",
        help="show the last N events (default: 20)",
    )  # fmt: skip
    events.add_argument(
        "--since", type=_parse_count, metavar="ID", help="show all events after this event"
    )
    add_json_option(events)
    events.set_defaults(run=show.show_events)

    _add_faults(commands)
    _add_why(commands)
    _add_probe(commands)

    activate = commands.add_parser("activate", help="start watching a running VM")
    activate.add_argument("vm", metavar="VM")
    activate.add_argument(
        "--probe", action="append", dest="probes", metavar="NAME",
        help="load this probe; repeatable (default: send_signal and out_of_memory)",
    )  # fmt: skip
    add_json_option(activate)
    activate.set_defaults(run=control.activate_vm)
    deactivate = commands.add_parser(
        "deactivate", help="stop watching a VM: unload its probes and remove the device"
    )
    deactivate.add_argument("vm", metavar="VM")
    add_json_option(deactivate)
    deactivate.set_defaults(run=control.deactivate_vm)

    _add_pause(commands)
    rules.add_parsers(commands)
    advise.add_parsers(commands)

    relay = commands.add_parser("relay", help="read the relay channel of a probe")
    relays = relay.add_subparsers(metavar="COMMAND", required=True)
    cat = relays.add_parser(
        "cat",
        help="write raw records to standard output as they arrive",
        description="Write the records of a probe to standard output until interrupted. Each is a "
        "struct vsp_record as in probe_modules/include/vesper_abi.h.",
    )
    cat.add_argument("vm", metavar="VM")
    cat.add_argument("probe", metavar="PROBE")
    cat.add_argument(
        "--cpu", type=_parse_count, metavar="N", help="read only this CPU of the guest"
    )
    add_json_option(cat)
    cat.set_defaults(run=show.copy_records)
    return top


def _add_why(commands: argparse._SubParsersAction[_Parser]) -> None:
    why = commands.add_parser(
        "why",
        help="explain one incident, from the kernel's event to the recovery",
        description="Show the last fault of a VM, or the fault with the given ID, as a timeline: "
        "what the guest's kernel did, what vesperd concluded, and what the cluster did according "
        "to its own history. Run this on the host where the fault happened.",
    )
    why.add_argument("vm", metavar="VM")
    why.add_argument(
        "--fault", type=_parse_count, metavar="ID", dest="id",
        help="explain this fault instead of the last one",
    )  # fmt: skip
    add_json_option(why)
    why.set_defaults(run=incident.explain_incident)


def _add_faults(commands: argparse._SubParsersAction[_Parser]) -> None:
    faults = commands.add_parser(
        "faults",
        help="list the faults that were reported to the cluster, with their reasons",
        description="List the faults in the journal. 'faults ID' shows all details of one fault, "
        "with the crash log of the guest's kernel. 'faults clear' marks a fault as over.",
    )
    faults.add_argument("--vm", metavar="VM", help="list only faults of this VM")
    faults.add_argument(
        "-n", "--limit", type=_parse_count, metavar="N",
        help="list the last N faults (default: 20)",
    )  # fmt: skip
    add_json_option(faults)
    faults.set_defaults(run=show.show_faults)
    sub = faults.add_subparsers(metavar="ID | clear", parser_class=_Parser)
    one = sub.add_parser("show", help="show all details of a fault; 'show' can be omitted")
    one.add_argument("id", type=_parse_count, metavar="ID", help="ID of the fault")
    add_json_option(one)
    one.set_defaults(run=show.show_fault)
    clear = sub.add_parser(
        "clear",
        help="mark a fault as over although the resource was not restarted",
        description="Mark a fault as over: the monitors of its resource succeed again. Pacemaker "
        "keeps its own failure count; reset it with: crm_resource --refresh --resource RESOURCE",
    )
    clear.add_argument("which", metavar="RESOURCE|ID", help="resource, or ID of a fault")
    add_json_option(clear)
    clear.set_defaults(run=control.clear_fault)


def _add_pause(commands: argparse._SubParsersAction[_Parser]) -> None:
    pause = commands.add_parser(
        "pause",
        help="suspend reporting of a VM's faults for a while",
        description="Suspend reporting of a VM's faults. Events are still recorded, and the end of "
        "the domain is still reported. The pause ends by itself.",
    )
    pause.add_argument("vm", metavar="VM")
    pause.add_argument(
        "--for", dest="seconds", type=_parse_duration, default=600.0, metavar="TIME",
        help="length of the pause, such as 90s, 10m, 2h, 1d (default: 10m)",
    )  # fmt: skip
    pause.add_argument(
        "--reason", metavar="TEXT", help="reason for the pause, as vesper status shows it"
    )
    add_json_option(pause)
    pause.set_defaults(run=control.pause_vm)
    resume = commands.add_parser("resume", help="end a pause and report faults again")
    resume.add_argument("vm", metavar="VM")
    add_json_option(resume)
    resume.set_defaults(run=control.resume_vm)


def _add_probe(commands: argparse._SubParsersAction[_Parser]) -> None:
    probe = commands.add_parser("probe", help="manage probe images, and probes in the guests")
    probes = probe.add_subparsers(metavar="COMMAND", required=True)
    build = probes.add_parser("build", help="build the probe images for a guest's kernel")
    build.add_argument("release", metavar="RELEASE", help="the guest's kernel release (uname -r)")
    build.add_argument(
        "--headers", metavar="DIR",
        help="build directory of the kernel (default: /lib/modules/RELEASE/build)",
    )  # fmt: skip
    build.add_argument(
        "--source", metavar="DIR", help="sources of the probes (default: /usr/src/vesper-*)"
    )
    _add_images_option(build)
    build.set_defaults(run=control.build_probes)
    listing = probes.add_parser(
        "list", help="list the probe images of this host, or the probes in a guest's kernel"
    )
    listing.add_argument("vm", nargs="?", metavar="VM", help="list the probes in this VM")
    _add_images_option(listing)
    listing.set_defaults(run=show.list_probes)
    info = probes.add_parser(
        "info", help="explain what a probe records, where, and which of its events are faults"
    )
    info.add_argument(
        "probe", nargs="?", metavar="PROBE", help="explain this probe (default: list all)"
    )
    add_json_option(info)
    info.set_defaults(run=show.explain_probe)
    add = probes.add_parser(
        "add",
        help="load a probe that you define, on any function or tracepoint of a guest's kernel",
        description="Load a dynamic probe. DEFINITION has the syntax of the kernel's own probe "
        "events, and can end with a condition and a limit (vesper-dynamic-probes(7)), such as "
        "'r:failed_opens do_sys_openat2 $retval:s32 comm=$comm if arg1 < 0 max 10/s'. "
        "The probe stays with the VM until it is unloaded.",
    )
    add.add_argument("vm", metavar="VM")
    add.add_argument("definition", nargs="+", metavar="DEFINITION")
    add_json_option(add)
    add.set_defaults(run=control.add_probe)
    load = probes.add_parser("load", help="load a probe into a guest's kernel")
    load.add_argument("vm", metavar="VM")
    load.add_argument("probe", metavar="PROBE")
    load.add_argument(
        "params", nargs="*", metavar="KEY=VALUE", help="module parameter of the probe"
    )
    add_json_option(load)
    load.set_defaults(run=control.load_probe)
    unload = probes.add_parser("unload", help="unload a probe from a guest's kernel")
    unload.add_argument("vm", metavar="VM")
    unload.add_argument("probe", metavar="PROBE")
    add_json_option(unload)
    unload.set_defaults(run=control.unload_probe)


def _add_images_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--probes-dir",
        default=str(DEFAULT_ROOT),
        metavar="DIR",
        help="directory of the probe images (default: %(default)s)",
    )
    add_json_option(command)


def _parse_duration(text: str) -> float:
    """Return the seconds of ``90s``, ``10m``, ``2h`` or ``1d``; a bare number is seconds."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    number = text[:-1] if unit else text
    if not (number.isascii() and number.isdecimal()) or int(number) == 0:
        raise argparse.ArgumentTypeError(f"not a duration: {text!r} (write 90s, 10m, 2h or 1d)")
    return float(int(number) * (unit or 1))


def _parse_count(text: str) -> int:
    """Return a whole number that is not negative."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"not a whole number: {text!r}")
    return value


def _with_show(argv: list[str]) -> list[str]:
    """Return the command line with ``faults 12`` as ``faults show 12``."""
    for i in range(len(argv) - 1):
        if argv[i] == "faults" and argv[i + 1].isdecimal():
            return [*argv[: i + 1], "show", *argv[i + 1 :]]
    return argv


def _prepare_output() -> None:
    """Keep closed outputs, and characters that they cannot show, from raising errors."""
    if sys.stdout is None:  # the caller has closed it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the end
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests replace it
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Discard what could not be written; Python would try again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    """Run the command ``vesper``, and return its exit status."""
    _prepare_output()
    try:
        try:
            return _run_command(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # the reader has ended (| head)
        return OK
    except OSError as error:
        _drop_output()
        print(f"vesper: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return FAILED


def _run_command(argv: list[str]) -> int:
    """Run one command, and return the exit status.

    :raises OSError: the output cannot be written.
    """
    options = build_parser().parse_args(_with_show(argv))
    try:
        with Client(options.socket, timeout=10.0) as client:
            options.run(client, options)
    except DaemonUnavailableError as error:
        print(f"vesper: {error}", file=sys.stderr)
        return NOT_RUNNING
    except (DaemonError, ImageError) as error:
        print(f"vesper: {error}", file=sys.stderr)
        return FAILED
    except (KeyError, TypeError) as error:
        print(
            f"vesper: {options.socket}: cannot understand the answer ({error!r}); check that "
            "vesperd listens there, and that it has the version of this command", file=sys.stderr,
        )  # fmt: skip
        return FAILED
    except KeyboardInterrupt:
        return 130
    return OK


if __name__ == "__main__":
    sys.exit(main())
