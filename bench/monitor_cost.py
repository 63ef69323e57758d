# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the lab's dom0 (bench/monitor.py): what one plain monitor of an agent costs.

    monitor_cost.py ROUNDS PROVIDER/AGENT...

Prints a line of JSON for each run: agent, CPU and wall time in s, exit code.
The CPU time is that of the agent and of all that it has waited for.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time


def _read_cpu_time() -> float:
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def measure_monitors(rounds: int, agents: list[str]) -> None:
    # One of each that does not count: what is read from the disk is in memory then.
    for number in range(rounds + 1):
        for agent in agents:
            provider, kind = agent.split("/")
            environ = {
                **os.environ,
                "OCF_ROOT": "/usr/lib/ocf",
                "OCF_RESOURCE_INSTANCE": "vm1",
                "OCF_RESOURCE_PROVIDER": provider,
                "OCF_RESOURCE_TYPE": kind,
                "OCF_RESKEY_xmfile": "/etc/xen/vm1.cfg",
                "OCF_RESKEY_CRM_meta_timeout": "60000",
            }
            cpu, begin = _read_cpu_time(), time.monotonic()
            code = subprocess.run(
                [f"/usr/lib/ocf/resource.d/{agent}", "monitor"],
                env=environ,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
            ).returncode
            result = {
                "agent": agent,
                "cpu": _read_cpu_time() - cpu,
                "wall": time.monotonic() - begin,
            }
            if number:
                print(json.dumps({**result, "code": code}), flush=True)


if __name__ == "__main__":
    measure_monitors(int(sys.argv[1]), sys.argv[2:])
