# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd's command line: read the configuration, run a :class:`Daemon` until a signal."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path

from vesper_monitor.daemon.config import DEFAULT_PATH, Config, ConfigError, load_config
from vesper_monitor.daemon.daemon import Daemon
from vesper_monitor.util import logs, sdnotify

__all__ = ["main", "raise_file_limit"]

_log = logging.getLogger(__name__)

#: s for all parts to end when vesperd is stopped.
STOP_TIMEOUT_S = 20.0


def raise_file_limit(wanted: int = 0) -> None:
    """Raise the limit of open files to the maximum: guests and monitors need many.

    :param wanted: log a warning if the maximum is lower.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted:
        _log.warning(
            "only %d files may be open, fewer than max_clients (%d) needs; raise LimitNOFILE in "
            "vesperd.service", hard, wanted,
        )  # fmt: skip


async def _run_daemon(config: Config) -> int:
    """Run vesperd until a signal, and return its exit status."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    daemon = Daemon(config)
    try:
        await daemon.start()
    except OSError as error:
        path = f"{error.filename}: " if error.filename else ""
        _log.error("%s%s", path, error.strerror or error)
        return 1
    sdnotify.notify_systemd("READY=1")
    _log.info("listening on %s", config.socket)
    interval = sdnotify.watchdog_interval()
    while not stopping.is_set():
        if interval is not None:
            sdnotify.notify_systemd("WATCHDOG=1")
        try:
            async with asyncio.timeout(interval):
                await stopping.wait()
        except TimeoutError:
            pass
    sdnotify.notify_systemd("STOPPING=1")
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await daemon.stop()
    except TimeoutError:
        _log.error("some parts of vesperd have not ended within %.0f s", STOP_TIMEOUT_S)
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command ``vesperd``, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="vesperd",
        description="Watches VMs from the host, and reports faults inside them to Pacemaker.",
        epilog="See vesperd(8).",
    )
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE",
        help=f"configuration file (default: {DEFAULT_PATH}, if it exists)",
    )  # fmt: skip
    parser.add_argument(
        "--socket", metavar="PATH", help="socket to listen on (default: as configured)"
    )
    parser.add_argument("--journal", metavar="FILE", help="journal file (default: as configured)")
    parser.add_argument(
        "--probes-dir", metavar="DIR", help="directory of probe images (default: as configured)"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"),
        help="least level of messages on standard error (default: as configured)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    try:
        config = load_config(options.config or DEFAULT_PATH, required=options.config is not None)
    except ConfigError as error:
        print(f"vesperd: {error}", file=sys.stderr)
        return 2
    given = {
        name: value
        for name in ("socket", "journal", "probes_dir", "log_level")
        if (value := getattr(options, name)) is not None
    }
    config = replace(config, **given)
    logs.set_up_logging(config.log_level)
    raise_file_limit(config.max_clients)
    return asyncio.run(_run_daemon(config))


if __name__ == "__main__":
    sys.exit(main())
