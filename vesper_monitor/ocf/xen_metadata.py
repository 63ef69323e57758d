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
            long="""
                How long a guest that was asked to shut down may take, in seconds, until
                the domain is destroyed. 0 destroys at once. Default: two thirds of the
                stop operation's timeout.
            """,
        ),
        Parameter(
            name="probes",
            kind="string",
            default=DEFAULT_PROBES,
            short="Probes to load into the guest's kernel",
            long="""
                Names of the probe modules that are loaded into the guest's kernel,
                separated by blanks. See: vesper probe list.
            """,
        ),
        Parameter(
            name="services",
            kind="string",
            short="Processes whose death is a fault",
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
        Action("status", timeout="30s"),
        Action("meta-data", timeout="5s"),
        Action("validate-all", timeout="20s"),
    ],
)
