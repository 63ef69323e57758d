# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a command under asyncio, with a time limit.

The agents have their own, without asyncio: :mod:`vesper_monitor.ocf.toolstack`.
"""

from __future__ import annotations

import asyncio

__all__ = ["run_command"]


async def run_command(*command: str, limit: float) -> tuple[int, str, str]:
    """Run a command. :returns: exit status, standard output, standard error.

    :param limit: s, after which the command is killed.
    :raises TimeoutError: it did not end in time.
    :raises OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limit):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace"), errors.decode(errors="replace")
