# SPDX-License-Identifier: GPL-2.0-or-later
"""The parameters of a resource, as the agents of all hypervisors understand them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.domain_identity import ConfiguredName

__all__ = ["DEFAULT_PROBES", "Settings"]

DEFAULT_PROBES = "send_signal out_of_memory"


class Settings:
    """The parameters of one resource.

    :param config: configuration file of the domain, for the toolstack.
    :param configured: the name in parameter or configuration file.
    """

    def __init__(self, config: str, configured: ConfiguredName) -> None:
        self.config = config
        self.configured = configured
        #: seconds until a shutdown becomes a destroy; None: the next line
        self.shutdown_timeout: float | None = None
        #: how much of the stop operation's timeout that is
        self.shutdown_share = 2 / 3
        #: shut down by the power button instead of the toolstack's own way
        self.power_button = False
        #: keep a crashed domain for its dump when it is stopped
        self.keep_crashed = False
        #: a guest that powers itself off is to stay off
        self.poweroff_wanted = False
        #: names of probes
        self.probes: list[str] = []
        #: names of processes whose main process is the service
        self.services: list[str] = []
        #: seconds that a pause for no known reason may last; None: vesperd's own limit
        self.pause_timeout: float | None = None
        #: seconds within which a hang of the guest's kernel is a fault; None:
        #: vesperd's own
        self.hang_timeout: float | None = None
        #: seconds that the guest may boot, after which that is a fault; None: vesperd's own
        self.boot_timeout: float | None = None
        #: rules for what is a fault (vesper-rules(7)), for vesperd
        self.fault_on = ""
        #: errors in parameters with which the VM runs; the monitor is degraded with the
        #: first
        self.doubts: list[str] = []
        #: names of parameters whose value in force stays
        self.unclear: set[str] = set()
        #: commands that must all succeed while the VM is well
        self.scripts: list[str] = []
        #: seconds that one of them may take
        self.script_timeout = 10.0
        #: seconds from one run of them to the next
        self.script_interval = 10.0
        #: divide the host's memory among the domains
        self.manage_memory = False
        #: MiB that the host itself keeps then
        self.reserved_memory = 512
        #: node attribute with the address to which a VM is migrated
        self.address_attribute = ""
        #: keys that the resource's utilization is to have: ``cpu``, ``hv_memory``, ``host_memory``
        self.utilization: list[str] = []
        #: keys that it is not to have
        self.no_utilization: list[str] = []
