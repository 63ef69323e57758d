# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a process is what a user has started, so far as its kernel can show that.

Any process can take a service's name.  What it cannot do is to lose the login
uid (``/proc/PID/loginuid``, audit_get_loginuid()) that a login has given it,
or to leave the cgroups of its session.  A daemon has no login uid.

What is unknown shows nothing: an older core or probe, a kernel without audit,
a guest without cgroup v2.  probe_modules/include/vesper_process.h decides by
the same facts whose signals it limits.
"""

from __future__ import annotations

__all__ = ["NO_LOGIN_UID", "is_users_cgroup", "is_users_login"]

#: The login uid of what comes from no login.
NO_LOGIN_UID = 0xFFFFFFFF
#: systemd keeps the logins below it.
_USER_SLICE = "user.slice"


def is_users_login(login_uid: object) -> bool:
    """Return whether it is a login uid, and not root's."""
    return isinstance(login_uid, int) and login_uid not in (0, NO_LOGIN_UID)


def is_users_cgroup(cgroup: object) -> bool:
    """Return whether this path leads through ``user.slice``, also a container's."""
    return isinstance(cgroup, str) and _USER_SLICE in cgroup.split("/")
