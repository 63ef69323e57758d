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

__all__ = ["main", "more_files"]

_log = logging.getLogger(__name__)

#: s to finish when asked to stop.
STOP_TIMEOUT_S = 20.0


def more_files(wanted: int = 0) -> None:
    """Allow as many open files as may be: each guest has some, each monitor one.

    :param wanted: with fewer than that, a warning is logged.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted:
        _log.warning(
            "only %d files may be open, less than max_clients (%d) needs; raise LimitNOFILE in "
            "vesperd.service", hard, wanted,
        )  # fmt: skip


async def _run_daemon(config: Config) -> int:
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
        _log.error("not everything ended within %.0f s", STOP_TIMEOUT_S)
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command ``vesperd``. :returns: its exit status."""
    parser = argparse.ArgumentParser(
        prog="vesperd",
        description="Watches virtual machines from the host and tells Pacemaker of faults inside.",
        epilog="See vesperd(8).",
    )
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE",
        help=f"configuration file (default: {DEFAULT_PATH}, if there)",
    )  # fmt: skip
    parser.add_argument(
        "--socket", metavar="PATH", help="listen here instead of what the configuration says"
    )
    parser.add_argument("--journal", metavar="FILE", help="journal file, likewise")
    parser.add_argument("--probes-dir", metavar="DIR", help="directory of probe images, likewise")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"),
        help="what goes to standard error, likewise",
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
    more_files(config.max_clients)
    return asyncio.run(_run_daemon(config))


if __name__ == "__main__":
    sys.exit(main())
