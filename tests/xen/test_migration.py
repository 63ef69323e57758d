# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration under Pacemaker of a PV guest, which Debian's Xen cannot migrate.

``make soak`` and ``make migrations`` migrate guests that it can.
"""

from __future__ import annotations

from lab.xen import XenLab
from tests.xen.support.benign_events import move
from tests.xen.support.vm1 import begin, clean


def test_a_doomed_migration_says_why(lab: XenLab) -> None:
    """Nothing is sent; it is stopped and started at the target."""
    begin(lab, "pv")
    home = lab.running_on()
    assert home is not None
    (target,) = (host for host in lab.hosts if host is not home)
    move(target)
    log = home.run_command("grep 'cannot be migrated live' /var/log/pacemaker/pacemaker.log").output
    assert "a PV guest needs shadow paging" in log
    clean(lab)
