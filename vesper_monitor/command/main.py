# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``vesper``: what it understands, and its exit status.

What the commands do is in show.py (to look), act.py (to change), rules.py and
advise.py beside this file.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import NoReturn

from vesper_monitor import __version__
from vesper_monitor.client import Client, DaemonError, DaemonUnavailableError, default_path
from vesper_monitor.command import advise as cli_advise
from vesper_monitor.command import control as cli_act
from vesper_monitor.command import incident as cli_why
from vesper_monitor.command import rules as cli_rules
from vesper_monitor.command import show as cli_show
from vesper_monitor.guest.control.images import DEFAULT_ROOT, ImageError

__all__ = ["build_parser", "main"]

#: Exit status.
OK = 0
FAILED = 1
USAGE = 2
NOT_RUNNING = 3

_EPILOG = """\
exit status:
  0  done
  1  it did not work; standard error says what and why
  2  the command line is wrong
  3  vesperd is not running or does not answer

examples:
  vesper status                      which VMs are watched, and how well
  vesper events -f --vm vm1          events of vm1 as they happen
  vesper faults --json               what was reported to the cluster
  vesper faults 12                   all there is about that fault
  vesper why vm1                     the last fault, step by step up to the failover's end
  vesper faults clear vm1            the fault of resource vm1 is over
  vesper probe build 6.1.0-56-amd64  probe images for guests with that kernel
  vesper rules check -e 'block_error: 3 in 60s'  which events would have been faults
  vesper advise vm1 --symptom "disk errors"      which probes and rules to use
  vesper probe add vm1 'do_exit code=$arg1:s64'   a probe of your own
  vesper relay cat vm1 send_signal   raw records of a probe
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see: {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(
        prog="vesper",
        description="Looks into what vesperd sees inside the virtual machines of this host.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vesper {__version__}")
    top.add_argument(
        "--socket", default=default_path(), metavar="PATH", help="of vesperd (%(default)s)"
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    status = commands.add_parser("status", help="which VMs are watched, and how well")
    status.add_argument("vm", nargs="?", metavar="VM", help="only this one")
    _add_json_option(status)
    status.set_defaults(run=cli_show.show_status)

    events = commands.add_parser("events", help="decoded events of the guests")
    events.add_argument("-f", "--follow", action="store_true", help="go on as they happen")
    events.add_argument("--vm", metavar="VM", help="only of this one")
    events.add_argument("-n", "--limit", type=_parse_count, metavar="N", help="the last N (20)")
    events.add_argument("--since", type=_parse_count, metavar="ID", help="those after this event")
    _add_json_option(events)
    events.set_defaults(run=cli_show.show_events)

    _add_faults(commands)
    _add_why(commands)
    _add_probe(commands)

    activate = commands.add_parser("activate", help="begin to watch a running VM")
    activate.add_argument("vm", metavar="VM")
    activate.add_argument(
        "--probe", action="append", dest="probes", metavar="NAME",
        help="load this one; may be repeated (send_signal, out_of_memory)",
    )  # fmt: skip
    _add_json_option(activate)
    activate.set_defaults(run=cli_act.activate_vm)
    deactivate = commands.add_parser(
        "deactivate", help="unload the probes and take the device away from the VM"
    )
    deactivate.add_argument("vm", metavar="VM")
    _add_json_option(deactivate)
    deactivate.set_defaults(run=cli_act.deactivate_vm)

    _add_pause(commands)
    cli_rules.add_parser(commands)
    cli_advise.add_parser(commands)

    relay = commands.add_parser("relay", help="a probe's relay channel, as the guest wrote it")
    relays = relay.add_subparsers(metavar="COMMAND", required=True)
    cat = relays.add_parser(
        "cat",
        help="raw records to standard output, as they come",
        description="Writes records as struct vsp_record of probe_modules/include/vesper_abi.h, "
        "one after the other, until interrupted.",
    )
    cat.add_argument("vm", metavar="VM")
    cat.add_argument("probe", metavar="PROBE")
    cat.add_argument("--cpu", type=_parse_count, metavar="N", help="only of this CPU of the guest")
    _add_json_option(cat)
    cat.set_defaults(run=cli_show.relay_cat)
    return top


def _add_why(commands: argparse._SubParsersAction[_Parser]) -> None:
    why = commands.add_parser(
        "why",
        help="one incident, from the kernel's event to the service's return",
        description="Shows a VM's last fault, or another one, in order with times: what the "
        "guest's kernel did, what vesperd made of it, and what the cluster did then, by its own "
        "history. Run it on the host on which the fault was.",
    )
    why.add_argument("vm", metavar="VM")
    why.add_argument("--fault", type=_parse_count, metavar="ID", dest="id", help="not the last one")
    _add_json_option(why)
    why.set_defaults(run=cli_why.explain_last_failover)


def _add_faults(commands: argparse._SubParsersAction[_Parser]) -> None:
    faults = commands.add_parser(
        "faults",
        help="faults that were reported to the cluster, and why",
        description="Shows the journal of faults; 'faults ID' all there is about one, with the "
        "last words of the guest's kernel; 'faults clear' says that one is over.",
    )
    faults.add_argument("--vm", metavar="VM", help="only of this one")
    faults.add_argument("-n", "--limit", type=_parse_count, metavar="N", help="the last N (20)")
    _add_json_option(faults)
    faults.set_defaults(run=cli_show.show_faults)
    sub = faults.add_subparsers(metavar="ID | clear", parser_class=_Parser)
    show = sub.add_parser("show", help="all there is about one fault; 'show' may be left out")
    show.add_argument("id", type=_parse_count, metavar="ID", help="number of the fault")
    _add_json_option(show)
    show.set_defaults(run=cli_show.show_fault)
    clear = sub.add_parser(
        "clear",
        help="a fault is over without a restart of the resource",
        description="The resource's monitors succeed again. "
        "Pacemaker's own failure count stays: crm_resource --refresh --resource RESOURCE",
    )
    clear.add_argument("which", metavar="RESOURCE|ID", help="a resource, or the number of a fault")
    _add_json_option(clear)
    clear.set_defaults(run=cli_act.clear_fault)


def _add_pause(commands: argparse._SubParsersAction[_Parser]) -> None:
    pause = commands.add_parser(
        "pause",
        help="report nothing of a VM for a while",
        description="Everything is recorded, nothing is reported but the end of the domain. "
        "The pause ends by itself.",
    )
    pause.add_argument("vm", metavar="VM")
    pause.add_argument(
        "--for", dest="seconds", type=_parse_duration, default=600.0, metavar="TIME",
        help="how long: 90s, 10m, 2h, 1d (10m)",
    )  # fmt: skip
    pause.add_argument("--reason", metavar="TEXT", help="shown to others")
    _add_json_option(pause)
    pause.set_defaults(run=cli_act.pause_vm)
    resume = commands.add_parser("resume", help="end a pause")
    resume.add_argument("vm", metavar="VM")
    _add_json_option(resume)
    resume.set_defaults(run=cli_act.resume_vm)


def _add_probe(commands: argparse._SubParsersAction[_Parser]) -> None:
    probe = commands.add_parser("probe", help="probe images, and probes in the guests")
    probes = probe.add_subparsers(metavar="COMMAND", required=True)
    build = probes.add_parser("build", help="build the images for a guest's kernel")
    build.add_argument("release", metavar="RELEASE", help="uname -r of the guest")
    build.add_argument(
        "--headers", metavar="DIR", help="the kernel's build directory (/lib/modules/RELEASE/build)"
    )
    build.add_argument("--source", metavar="DIR", help="VESPER's sources (/usr/src/vesper-*)")
    _add_images_option(build)
    build.set_defaults(run=cli_act.probe_build)
    listing = probes.add_parser(
        "list", help="the images there are, or the probes in a guest's kernel"
    )
    listing.add_argument("vm", nargs="?", metavar="VM", help="the probes of this one")
    _add_images_option(listing)
    listing.set_defaults(run=cli_show.probe_list)
    info = probes.add_parser(
        "info", help="what a probe sees, where in the kernel, and what of it is a fault"
    )
    info.add_argument("probe", nargs="?", metavar="PROBE", help="only this one")
    _add_json_option(info)
    info.set_defaults(run=cli_show.probe_info)
    add = probes.add_parser(
        "add",
        help="put a probe on any function or tracepoint of a guest's kernel",
        description="DEFINITION is in the syntax of the kernel's own probe events, and may end "
        "with a condition and a limit (vesper-dynamic-probes(7)): "
        "'r:failed_opens do_sys_openat2 $retval:s32 comm=$comm if arg1 < 0 max 10/s'. "
        "The probe stays with the VM until it is unloaded.",
    )
    add.add_argument("vm", metavar="VM")
    add.add_argument("definition", nargs="+", metavar="DEFINITION")
    _add_json_option(add)
    add.set_defaults(run=cli_act.probe_add)
    load = probes.add_parser("load", help="load a probe into a guest's kernel")
    load.add_argument("vm", metavar="VM")
    load.add_argument("probe", metavar="PROBE")
    load.add_argument("params", nargs="*", metavar="KEY=VALUE", help="module parameters")
    _add_json_option(load)
    load.set_defaults(run=cli_act.probe_load)
    unload = probes.add_parser("unload", help="unload a probe from a guest's kernel")
    unload.add_argument("vm", metavar="VM")
    unload.add_argument("probe", metavar="PROBE")
    _add_json_option(unload)
    unload.set_defaults(run=cli_act.probe_unload)


def _add_json_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for programs (docs/api.md)")


def _add_images_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--probes-dir", default=str(DEFAULT_ROOT), metavar="DIR", help="images (%(default)s)"
    )
    _add_json_option(command)


def _parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``10m``, ``2h``, ``1d``; a bare number is seconds."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    number = text[:-1] if unit else text
    if not (number.isascii() and number.isdecimal()) or int(number) == 0:
        raise argparse.ArgumentTypeError(f"not a time: {text!r} (90s, 10m, 2h, 1d)")
    return float(int(number) * (unit or 1))


def _parse_count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"not a number: {text!r}")
    return value


def _with_show(argv: list[str]) -> list[str]:
    """``faults 12`` is ``faults show 12``."""
    for i in range(len(argv) - 1):
        if argv[i] == "faults" and argv[i + 1].isdecimal():
            return [*argv[: i + 1], "show", *argv[i + 1 :]]
    return argv


def _prepare_output() -> None:
    """Let no character of a guest's, and no closed output, end the command with a traceback."""
    if sys.stdout is None:  # closed by who has called us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as we live
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test may have put another one there
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What could not be written is not tried again at exit, of which Python would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    """The command ``vesper``. :returns: its exit status."""
    _prepare_output()
    try:
        try:
            return _run_command(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # who reads us has had enough (| head)
        return OK
    except OSError as error:
        _drop_output()
        print(f"vesper: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return FAILED


def _run_command(argv: list[str]) -> int:
    """
    :returns: the exit status.
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
            f"vesper: {options.socket}: an answer is not understood ({error!r}); is it vesperd's, "
            "and of this version?", file=sys.stderr,
        )  # fmt: skip
        return FAILED
    except KeyboardInterrupt:
        return 130
    return OK


if __name__ == "__main__":
    sys.exit(main())
