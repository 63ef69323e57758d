# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold after something that looks like a fault and is none."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from lab.evaluation import cluster
from lab.xen import XenHost, XenLab
from vesper_monitor.ocf.invocation import OcfCode

__all__ = ["Innocent", "check_seen", "fatal_pids"]


def _rows(output: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [row.get("event", row) if isinstance(row.get("event"), dict) else row for row in rows]


def fatal_pids(host: XenHost) -> list[int]:
    """Processes of which vesperd there has seen that a signal kills them, in order."""
    output = host.run_command("vesper events --json -n 1000", timeout=60, check=True).output
    return [
        row["fields"]["tgid"]
        for row in _rows(output)
        if row["event"] == "send_signal" and row["fields"]["fatal"]
    ]


def kill_worker(lab: XenLab, host: XenHost) -> int:
    """A process that is no service is killed in the guest. :returns: its pid."""
    kill = "sleep 1000 >/dev/null & usleep 300000; kill -ILL $!; echo $!"
    said = lab.guest_through(through=host).run_command(kill)
    return int(said.output.split()[-1])


def check_seen(lab: XenLab, host: XenHost, what: str) -> None:
    """What happens in the guest is seen there.

    :param what: was done, for messages.
    """
    pid = kill_worker(lab, host)
    deadline = time.monotonic() + 30
    while (seen := fatal_pids(host)[-1:]) != [pid]:
        assert time.monotonic() < deadline, f"{what}: {seen}, not {pid}"
        time.sleep(0.3)


class Innocent:
    """vm1 as a watched resource, now, and whether all is well later.

    :ivar home: where it runs.
    :ivar page: its web page, which names the boot.
    """

    def __init__(self, lab: XenLab) -> None:
        home = lab.running_on()
        assert home is not None
        self.lab = lab
        self.home = home
        self.page = lab.guest_through(through=home).fetch_page(timeout=10)
        self.faults = self._faults()
        self.remarks: list[str] = []

    def remark(self, text: str) -> None:
        """Of what happened, beyond that all is well."""
        self.remarks.append(text)

    def _faults(self) -> list[str]:
        ask = "vesper faults --json -n 1000"
        return [host.run_command(ask, timeout=60, check=True).output for host in self.lab.hosts]

    def same(self, what: str) -> None:
        """The guest has not been started anew.

        :param what: happened, for messages.
        """
        page = self.lab.guest_through(through=self.home).fetch_page(timeout=10)
        assert page == self.page, f"{what}: the guest was started anew: {self.page} before: {page}"

    def check(self, what: str) -> None:
        """No failure is recorded anywhere, the guest is watched, and it is seen what happens there.

        :param what: was done, for messages.
        """
        home = self.home
        cluster.wait_until_ready(self.lab, "vesper")
        assert self.lab.running_on() is home, what
        mon = self.lab.a.run_command("crm_mon -1 -f --output-as=xml", timeout=60, check=True).output
        failed = re.findall(r'<failure .* exitreason="([^"]*)" exitcode="(\d+)"', mon)
        failures = [reason for reason, code in failed if int(code) != OcfCode.OCF_DEGRADED]
        assert not failures and "fail-count=" not in mon, f"{what}: {failures}: {mon}"
        if failed:
            # True while it lasts, shown until somebody cleans it up, and no failure.
            self.remark(f"was degraded for a while: {failed[0][0]}")
            cluster.settle_after_failover(self.lab, "vesper", lambda _: None)
        assert self._faults() == self.faults, what
        check_seen(self.lab, home, what)
