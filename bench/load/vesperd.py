# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m bench.load.vesperd CONFIG``: vesperd as it is, on guests that no libvirt knows."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from kvm_transport.transport import KvmTransport
from vesper_monitor.daemon import config
from vesper_monitor.daemon.daemon import Daemon
from vesper_monitor.daemon.main import raise_file_limit
from vesper_monitor.util import logs


class CrowdTransport(KvmTransport):
    """The real one; libvirt itself need not be there."""

    @classmethod
    def explain_unusable(cls) -> str | None:
        return None


async def run_until_sigterm(settings: config.Config) -> None:
    """Until SIGTERM."""
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    daemon = Daemon(settings, {"kvm": CrowdTransport})
    await daemon.start()
    await end.wait()
    await daemon.stop()


if __name__ == "__main__":
    logs.set_up_logging("warning")
    raise_file_limit()
    asyncio.run(run_until_sigterm(config.load_config(Path(sys.argv[1]), required=True)))
