# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agents do while VESPER's library cannot be loaded.

An upgrade may be half done, or a file cut off.  The VM runs on, so this must
not stop it, and a node must not be fenced for it.  Nothing here is of the
library; a toolstack's own list of domains says what runs.

What is not known is never "not running".  No domain is touched but the
resource's own, by its exact name in a list that was read just before.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping

from fallback_call import Call, UnknownStateError
from fallback_toolstacks import DYING, RUNS, Domain, Libvirt, Toolstack, Xen

__all__ = ["main"]

OCF_SUCCESS = 0
OCF_ERR_GENERIC = 1
OCF_ERR_UNIMPLEMENTED = 3
OCF_ERR_INSTALLED = 5
OCF_NOT_RUNNING = 7
OCF_DEGRADED = 190

#: What a file that is missing, empty or cut off leads to.
LOAD_ERRORS = (ImportError, SyntaxError, AttributeError, NameError, EOFError)

#: For the toolstack to ask the guest, and until it asks again: a kernel that boots does not hear.
SHUTDOWN_REQUEST_LIMIT_S = 10.0
SHUTDOWN_AGAIN_S = 5.0
#: Between two looks; the first come sooner.
LOOK_PAUSE_S = 0.5
FIRST_PAUSE_S = 0.1
#: What a stop keeps of its time for the destroy, if its timeout is three times as long.
MAX_DESTROY_RESERVE_S = 20.0
#: Pacemaker keeps as much of an exit reason.
REASON_BYTES = 128


def _monitor(toolstack: Toolstack, recurring: bool) -> tuple[int, str]:
    """Return the exit code, and what is to be said of the domain.

    :param recurring: what cannot be told is then no reason to stop it.
    """
    call = toolstack.call
    ran = recurring or bool(toolstack.remembered_name)
    end = time.monotonic() + (min(toolstack.reboot_gap_s, call.left() / 3) if ran else 0.0)
    while True:
        try:
            own = toolstack.own_domains()
            if recurring and own:
                toolstack.check_owner()
        except UnknownStateError as error:
            who = toolstack.name or "the domain"
            return (
                OCF_DEGRADED if recurring else OCF_ERR_GENERIC,
                f"cannot tell whether {who} runs: {error}",
            )
        name = toolstack.name
        if any(domain.state == RUNS for domain in own):
            if recurring:
                return OCF_DEGRADED, f"{name} runs and is not watched"
            # One that is only arriving or leaving does not run here yet, or any more.
            if any(domain.name == name for domain in own):
                return OCF_SUCCESS, ""
            return OCF_ERR_GENERIC, f"{name} is being migrated"
        if time.monotonic() >= end or call.is_over():
            break
        time.sleep(LOOK_PAUSE_S)
    if own:
        return OCF_ERR_GENERIC, f"{name} {own[0].state}"
    return OCF_NOT_RUNNING, f"{name} is not running"


def _stop(toolstack: Toolstack) -> tuple[int, str]:
    """Shut the domain down, then destroy it. See :func:`_monitor`."""
    call = toolstack.call
    shutdown_end = time.monotonic() + _shutdown_time(toolstack)
    next_request = 0.0
    pause = FIRST_PAUSE_S
    # A guest that reboots is not listed for a moment, and comes back.
    gap = min(toolstack.reboot_gap_s, call.left() / 3)
    gone_at = time.monotonic() + gap
    last: Domain | None = None
    while True:
        own: list[Domain] = []
        trouble = ""
        try:
            own = toolstack.own_domains()
            if not own and last is not None and toolstack.brings_back(last):
                gone_at, last = time.monotonic() + gap, None
            if not own and time.monotonic() >= gone_at:
                call.forget()
                return OCF_SUCCESS, ""
            if not own:
                time.sleep(LOOK_PAUSE_S)
                continue
            gone_at, last = 0.0, own[0]
            toolstack.check_owner()
            trouble = f"{own[0].name} {own[0].state}"
            now = time.monotonic()
            first = own[0]
            if first.state == RUNS and first.name == toolstack.name and now < shutdown_end:
                if now >= next_request:
                    next_request = now + SHUTDOWN_AGAIN_S
                    _end(toolstack, toolstack.shutdown_command, first, SHUTDOWN_REQUEST_LIMIT_S)
            else:
                for domain in own:
                    if domain.state != DYING:
                        _end(toolstack, toolstack.destroy_command, domain, call.left())
        except UnknownStateError as error:
            trouble = str(error)
        if call.is_over() or not toolstack.name:
            break
        time.sleep(pause)
        pause = min(2 * pause, LOOK_PAUSE_S)
    if own and all(domain.state == DYING for domain in own):
        call.forget()  # it executes no more
        return OCF_SUCCESS, ""
    return OCF_ERR_GENERIC, f"{toolstack.name or 'the domain'} was not stopped: {trouble}"


def _end(
    toolstack: Toolstack, command: Callable[[str], list[str]], domain: Domain, limit: float
) -> None:
    """:raises UnknownStateError: it was refused, or hangs."""
    words = command(toolstack.find_address(domain))
    _log(" ".join(words))
    code, _, said = toolstack.run(words, limit)
    if code != 0:
        raise UnknownStateError(f"{words[0]}: {said}")


def _shutdown_time(toolstack: Toolstack) -> float:
    """Seconds that the guest has to shut down."""
    call = toolstack.call
    most = call.left() - min(MAX_DESTROY_RESERVE_S, call.timeout / 3)
    if call.switched_on("force_stop"):
        return 0.0
    wanted = call.parameter("shutdown_timeout")
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", wanted):
        return min(float(wanted), most)
    return min(call.timeout * toolstack.shutdown_share, most)


def main(agent: str, arguments: list[str], environ: Mapping[str, str], error: Exception) -> int:
    """Do an action; return its exit code.

    :param agent: XenVM or LibvirtVM.
    :param error: why the library does not do it.
    """
    traceback.print_exception(error)
    action = arguments[0] if len(arguments) == 1 else ""
    call = Call(action, environ)
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, LOAD_ERRORS):
        why = f"VESPER's library cannot be loaded ({what})"
    else:
        why = f"internal error of VESPER's agent, please report it ({what})"

    if action in ("start", "validate-all", "meta-data"):
        code, said = OCF_ERR_INSTALLED, "install VESPER again on this node"
    elif action == "migrate_to":
        code, said = OCF_ERR_GENERIC, "not migrated"
    elif action in ("stop", "monitor", "status", "migrate_from", "reload-agent"):
        toolstack = (Xen if agent == "XenVM" else Libvirt)(call)
        if action == "stop":
            code, said = _stop(toolstack)
        else:
            code, said = _monitor(toolstack, action == "monitor" and call.recurring)
    else:
        code, said = OCF_ERR_UNIMPLEMENTED, f"no such action: {' '.join(arguments)}"
    if code != OCF_SUCCESS:
        _tell(f"{why}: {said}")
    return code


def _log(text: str) -> None:
    text = "".join(c if c.isprintable() else " " for c in text)
    sys.stderr.write(text.encode(errors="replace").decode() + "\n")


def _tell(reason: str) -> None:
    """Tell Pacemaker, which keeps little: begin and end say most."""
    _log(reason)
    short = "".join(c if c.isprintable() else " " for c in reason).encode(errors="replace")
    if len(short) > REASON_BYTES:
        short = short[: REASON_BYTES // 2 - 3] + b" ... " + short[-REASON_BYTES // 2 + 3 :]
    _log(f"ocf-exit-reason:{short.decode(errors='ignore')}")
