# SPDX-License-Identifier: GPL-2.0-or-later
"""VESPER's communication layer on Xen, the host's end (dom0).

- :mod:`xen_transport.transport`: domains, activation; the entry point,
- :mod:`xen_transport.device`: the device's nodes in xenstore, and their states,
- :mod:`xen_transport.link`: one activated guest: pages, notifications,
- :mod:`xen_transport.xl_log`: why a domain has ended,
- :mod:`xen_transport.xenstore`, :mod:`xen_transport.gntdev`,
  :mod:`xen_transport.evtchn`, :mod:`xen_transport.toolstack`: Xen's interfaces.

The guest's end is ``xen_transport/guest/vesper_xen.c``.
"""
