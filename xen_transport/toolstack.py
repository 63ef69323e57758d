# SPDX-License-Identifier: GPL-2.0-or-later
"""States of domains, as ``xl list`` has them.

The hypervisor's own interface (domctl) changes with each release; xl's output
has been stable for a decade. It takes some 20 ms.
"""

from __future__ import annotations

import asyncio

from vesper_monitor.domain_state import DomainState
from vesper_monitor.transport import TransportError
from vesper_monitor.xl_list import rows

__all__ = ["TIMEOUT", "domain_states", "parse"]

#: s
TIMEOUT = 15.0


async def domain_states() -> dict[int, DomainState]:
    """domid → state, of all domains. :raises TransportError:"""
    try:
        process = await asyncio.create_subprocess_exec(
            "xl",
            "list",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise TransportError(f"xl list: {error}; is xen-utils installed?") from None
    try:
        async with asyncio.timeout(TIMEOUT):
            output, errors = await process.communicate()
    except TimeoutError:
        raise TransportError(
            f"xl list: no answer within {TIMEOUT:.0f} s; Xen's toolstack hangs"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        raise TransportError(
            f"xl list: exit status {process.returncode}: {errors.decode(errors='replace')[-200:]}"
        )
    return parse(output.decode(errors="replace"))


def parse(text: str) -> dict[int, DomainState]:
    """:raises TransportError: this is no such list."""
    try:
        domains = rows(text)
    except ValueError as error:
        raise TransportError(str(error)) from None
    return {int(domid): state for _, domid, state in domains if domid.isdecimal()}
