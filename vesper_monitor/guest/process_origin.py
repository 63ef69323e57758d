# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a user of the guest has started a process, as far as its kernel shows.

Any process can take a service's name. It cannot lose the login uid
(``/proc/PID/loginuid``, audit_get_loginuid()) that a login has given it, nor leave
the cgroups of its session. A daemon has no login uid.

An unknown value shows nothing: an older core or probe, a kernel without audit, a
guest without cgroup v2. probe_modules/include/vesper_process.h limits signals of
processes by the same facts.
"""

from __future__ import annotations

__all__ = ["NO_LOGIN_UID", "is_users_cgroup", "is_users_login"]

#: The login uid of processes that come from no login.
NO_LOGIN_UID = 0xFFFFFFFF
#: The cgroup below which systemd keeps logins.
_USER_SLICE = "user.slice"


def is_users_login(login_uid: object) -> bool:
    """Return whether a value is a login uid other than root's."""
    return isinstance(login_uid, int) and login_uid not in (0, NO_LOGIN_UID)


def is_users_cgroup(cgroup: object) -> bool:
    """Return whether a cgroup path leads through ``user.slice``, also of a container."""
    return isinstance(cgroup, str) and _USER_SLICE in cgroup.split("/")
