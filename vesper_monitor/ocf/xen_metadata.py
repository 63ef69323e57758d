# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``crm ra info ocf:vesper:XenVM`` shows."""

from __future__ import annotations

from vesper_monitor import __version__
from vesper_monitor.ocf.agent import DEFAULT_PROBES
from vesper_monitor.ocf.metadata import Action, Parameter, meta_data

__all__ = ["META_DATA"]

META_DATA = meta_data(
    name="XenVM",
    version=__version__,
    short="Manages a Xen domain and hears of faults inside it",
    long="""
        Manages a Xen domain, as ocf:heartbeat:Xen does, and reports faults inside of
        it as soon as they happen: the guest's kernel tells vesperd on this host
        through VESPER's probes, and the monitor operation fails with the cause as
        its exit reason.

        The recurring monitor waits for a fault, at most for its timeout less a
        fifth (less 2 s at least, 10 s at most). It uses no CPU meanwhile and does
        not delay a stop. Give it a short interval, which is the gap between two
        monitors, and a timeout of 30 s or more, which is how long one stays. A
        fault in the gap is not lost: the next monitor reports it, or vesperd tells
        Pacemaker itself if the interval is long.

        Without vesperd, without the vesper modules in the guest, or without a probe
        image for the guest's kernel, the domain is started and watched by its state
        alone. The monitor then returns "degraded" (190), which is shown and is no
        failure, with what is missing and what to do as the exit reason.

        All parameters but xmfile and name can be changed while the domain runs.

        A second monitor with OCF_CHECK_LEVEL=10 and a long interval asks xl itself for
        the domain's state and runs the monitor scripts; with 20 a guest that is not
        watched is degraded there, too.
    """,
    parameters=[
        Parameter(
            name="xmfile",
            kind="string",
            required=True,
            short="xl configuration file",
            long="""
                Absolute path of the domain's xl configuration file. It must be there on
                every node that may run the domain.
            """,
        ),
        Parameter(
            name="name",
            kind="string",
            unique_group="name",
            short="Name of the domain",
            long="""
                Name of the domain. Default: what the xmfile says ("name = ..."), and if
                that cannot be read, the resource's id.
            """,
        ),
        Parameter(
            name="shutdown_timeout",
            kind="integer",
            short="Seconds until a shutdown becomes a destroy",
            reloadable=True,
            long="""
                How long a guest that was asked to shut down may take, in seconds, until
                the domain is destroyed. 0 destroys at once. Default: two thirds of the
                stop operation's timeout. A domain that has crashed, or of which vesperd
                knows that the system inside is gone, is not asked but destroyed at once.
            """,
        ),
        Parameter(
            name="shutdown_acpi",
            kind="boolean",
            default="false",
            short="Shut down by the power button",
            reloadable=True,
            long="""
                Press the domain's power button (ACPI) to shut it down. For an HVM domain
                without PV drivers.
            """,
        ),
        Parameter(
            name="keep_crashed",
            kind="boolean",
            default="false",
            short="Keep a crashed domain for its dump",
            reloadable=True,
            long="""
                Do not destroy a domain that has crashed when it is stopped, but rename it
                to NAME--crashed and take its disks away, so that it can be dumped while
                the VM runs elsewhere. Needs on_crash="preserve" in the xmfile. It keeps
                its memory on this node until it is destroyed: by an operator, when the VM
                crashes here again, or when there is no memory to start the VM here.
            """,
        ),
        Parameter(
            name="allow_mem_management",
            kind="boolean",
            default="false",
            short="Share the host's memory out among the domains",
            reloadable=True,
            long="""
                When this domain is started, stopped or has arrived by migration, all
                domains of the host get equal parts of its memory, less what is reserved.
                The memory in the xmfile then does not count, maxmem does.
            """,
        ),
        Parameter(
            name="reserved_Dom0_memory",
            kind="integer",
            default="512",
            short="Memory that the host itself keeps (MiB)",
            reloadable=True,
            long="""
                With allow_mem_management: how much of the host's memory is not shared out
                among the domains, in MiB.
            """,
        ),
        Parameter(
            name="node_ip_attribute",
            kind="string",
            short="Node attribute with the address to migrate to",
            reloadable=True,
            long="""
                Name of a node attribute with the address of the target node to which a
                live migration goes, for a network of its own. Default: the node's name.
            """,
        ),
        Parameter(
            name="autoset_utilization_cpu",
            kind="boolean",
            default="false",
            short="Set the resource's utilization cpu",
            reloadable=True,
            long="""
                Write the number of the domain's virtual CPUs into the resource's
                utilization "cpu". The nodes need such a utilization too, or the resource
                cannot start anywhere.
            """,
        ),
        Parameter(
            name="autoset_utilization_hv_memory",
            kind="boolean",
            default="false",
            short="Set the resource's utilization hv_memory",
            reloadable=True,
            long="""
                Write the domain's memory in MiB into the resource's utilization
                "hv_memory". The nodes need such a utilization too, or the resource cannot
                start anywhere.
            """,
        ),
        Parameter(
            name="monitor_scripts",
            kind="string",
            short="Commands that succeed while the VM is well",
            reloadable=True,
            long="""
                Paths of executables, separated by blanks. They are run side by side when
                a monitor begins, and again while it waits. If one fails, the monitor
                fails, with the last line that it said as the exit reason. A start ends
                when all of them succeed.
            """,
        ),
        Parameter(
            name="monitor_scripts_timeout",
            kind="integer",
            default="10",
            short="Seconds that one monitor script may take",
            reloadable=True,
            long="""
                How long each of the monitor scripts may take, in seconds. One that takes
                longer has failed.
            """,
        ),
        Parameter(
            name="monitor_scripts_interval",
            kind="integer",
            default="10",
            short="Seconds from one run of the monitor scripts to the next",
            reloadable=True,
            long="""
                How often the monitor scripts are run while a monitor waits, in seconds.
                One that does not fit into a monitor's time is left to the next.
            """,
        ),
        Parameter(
            name="probes",
            kind="string",
            default=DEFAULT_PROBES,
            short="Probes to load into the guest's kernel",
            reloadable=True,
            long="""
                Names of the probe modules that are loaded into the guest's kernel,
                separated by blanks. See: vesper probe list.
            """,
        ),
        Parameter(
            name="services",
            kind="string",
            short="Processes whose death is a fault",
            reloadable=True,
            long="""
                Names of the processes inside the guest that are the service, separated
                by blanks, as "ps -o comm" in the guest shows them (15 bytes at most),
                for example: httpd. A signal that kills the main process of that name,
                which is the one whose parent has another name, is a fault; the death of
                one of its workers is not. If nothing is named, no signal is a fault. An
                out-of-memory kill always is.
            """,
        ),
    ],
    actions=[
        Action("start", timeout="60s"),
        Action("stop", timeout="40s"),
        Action("monitor", timeout="30s", interval="1s", depth="0"),
        Action("monitor", timeout="30s", interval="60s", depth="10"),
        Action("monitor", timeout="30s", interval="300s", depth="20"),
        Action("status", timeout="30s"),
        Action("migrate_to", timeout="120s"),
        Action("migrate_from", timeout="120s"),
        Action("reload-agent", timeout="20s"),
        Action("meta-data", timeout="5s"),
        Action("validate-all", timeout="20s"),
    ],
)
