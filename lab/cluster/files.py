# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration files of a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = [
    "corosync_conf",
    "make_guests_address",
    "make_hosts_file",
    "make_initial_cib",
    "make_node_address",
    "make_node_name",
    "make_remote_name",
    "pacemaker_defaults",
]

NETWORK = "10.99.0"
#: Of the guests; the nodes have a second address in it.
GUESTS = "10.77.0"


def make_node_name(number: int) -> str:
    """Nodes are numbered from 1."""
    return f"node{number}"


def make_remote_name(number: int) -> str:
    """So are the nodes of Pacemaker Remote, which have no Corosync."""
    return f"remote{number}"


def make_node_address(number: int) -> str:
    return f"{NETWORK}.{number}"


def make_guests_address(number: int) -> str:
    return f"{GUESTS}.{number}"


def make_hosts_file(names: Sequence[str]) -> str:
    """/etc/hosts.

    :param names: of all nodes, in the order of their addresses.
    """
    lines = ["127.0.0.1 localhost"]
    lines += [f"{make_node_address(number)} {name}" for number, name in enumerate(names, 1)]
    return "\n".join(lines) + "\n"


def corosync_conf(count: int, *, fencing: bool = False) -> str:
    """Real-time scheduling and cgroups are off: a container may permit neither.

    With fencing, of two nodes the one that boots waits for the other
    (``wait_for_all``, the default with ``two_node``).
    """
    two = "two_node: 1" if count == 2 else ""
    if two and not fencing:
        two += "\n  wait_for_all: 0"
    nodes = "\n".join(
        f"  node {{\n    ring0_addr: {make_node_address(number)}\n"
        f"    name: {make_node_name(number)}\n    nodeid: {number}\n  }}"
        for number in range(1, count + 1)
    )
    return f"""\
totem {{
  version: 2
  cluster_name: lab
  transport: knet
  token: 1000
  crypto_cipher: none
  crypto_hash: none
}}
logging {{
  to_stderr: no
  to_syslog: no
  to_logfile: yes
  logfile: /var/log/corosync/corosync.log
  timestamp: hires
}}
system {{
  sched_rr: no
  move_to_root_cgroup: no
}}
quorum {{
  provider: corosync_votequorum
  {two}
}}
nodelist {{
{nodes}
}}
"""


#: Without a CIB at its first start Pacemaker waits dc-deadtime (20 s) for a DC.
PROPERTIES = {"dc-deadtime": "1s", "stonith-enabled": "false"}


#: s by which one of two nodes that have lost each other shoots later, so that one stays.
FENCING_DELAY_S = 3


def make_initial_cib(
    properties: Mapping[str, str] | None = None,
    remotes: Sequence[str] = (),
    fencing: Sequence[str] = (),
) -> str:
    """The cluster's configuration before its first start.

    :param remotes: names of the nodes of Pacemaker Remote.
    :param fencing: names of the nodes that have a power switch; the first is
        fenced :data:`FENCING_DELAY_S` seconds later.
    """
    enabled = {"stonith-enabled": "true"} if fencing else {}
    pairs: Sequence[str] = [
        f'<nvpair id="cib-bootstrap-options-{name}" name="{name}" value="{value}"/>'
        for name, value in {**PROPERTIES, **enabled, **(properties or {})}.items()
    ]
    resources = [
        f'<primitive id="{name}" class="ocf" provider="pacemaker" type="remote">'
        f'<operations><op id="{name}-monitor" name="monitor" interval="10s" timeout="30s"/>'
        "</operations></primitive>"
        for name in remotes
    ]
    if fencing:
        parameters = {
            "pcmk_host_list": " ".join(fencing),
            "pcmk_delay_base": ";".join(
                f"{name}:{0 if number else FENCING_DELAY_S}s" for number, name in enumerate(fencing)
            ),
        }
        attributes = "".join(
            f'<nvpair id="fencing-{name}" name="{name}" value="{value}"/>'
            for name, value in parameters.items()
        )
        resources.append(
            '<primitive id="fencing" class="stonith" type="fence_lab">'
            f'<instance_attributes id="fencing-parameters">{attributes}</instance_attributes>'
            '<operations><op id="fencing-monitor" name="monitor" interval="60s" timeout="30s"/>'
            "</operations></primitive>"
        )
    return f"""\
<cib crm_feature_set="3.16.1" validate-with="pacemaker-3.9" epoch="1" num_updates="0" \
admin_epoch="0">
  <configuration>
    <crm_config>
      <cluster_property_set id="cib-bootstrap-options">
        {"".join(pairs)}
      </cluster_property_set>
    </crm_config>
    <nodes/><resources>{"".join(resources)}</resources><constraints/>
  </configuration>
  <status/>
</cib>
"""


def pacemaker_defaults() -> str:
    """/etc/default/pacemaker: at this priority the log has each operation's times."""
    return """\
PCMK_logfacility=none
PCMK_logfile=/var/log/pacemaker/pacemaker.log
PCMK_logpriority=info
"""
