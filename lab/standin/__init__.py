# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for Xen and its guests, for tests of everything above them.

A namespace node of the cluster lab has no hypervisor, and a unit test has no
minute to boot one. So here a *guest* is a small process that speaks the guest
half of ``probe_modules/include/vesper_abi.h`` in a shared file, a *domain* is
its directory under ``$VESPER_STANDIN_DIR``, :class:`StandinTransport` is the
transport to it, and ``xl`` a script that starts and ends it. Nothing of this
is used where a real guest can be had, and nothing of it is installed.

::

    python3 -m lab.standin images DIR           probe images that a stand-in guest takes
    python3 -m lab.standin guest NAME           a guest, until it is killed
    python3 -m lab.standin tell NAME emit send_signal sig=11 comm=httpd fatal=1
    python3 -m lab.standin tell NAME state crashed
    python3 -m lab.standin tell NAME reset          and, for the next kernel: boot

Command line of a guest (``--cmdline``; in a file for ``xl``: ``extra = "…"``):
``lab.vesper=no`` no modules in the guest, ``lab.version=N`` another protocol
version, ``lab.silent=yes`` no answers, ``lab.release=R`` another kernel,
``lab.cpus=N``.
"""
