# SPDX-License-Identifier: GPL-2.0-or-later
"""Wait until a cluster is idle.

Not ``crm_resource --wait``: that of Pacemaker 3.0.0 never ends if the first run
of a recurring monitor has failed (it counts that run as pending), and that of
2.1.5 never ends in maintenance mode while a degraded monitor is on record.
"""

from __future__ import annotations

__all__ = ["COMMAND", "LIMIT_S"]

#: For a cluster to become idle.
LIMIT_S = 120

#: Whether the DC is idle. A change needs a moment until the DC knows of it.
_LOOK = (
    "dc=$(crmadmin -D 2>/dev/null | sed -n 's/^Designated Controller is: *//p' | cut -d' ' -f1); "
    '[ -n "$dc" ] && crmadmin -S "$dc" 2>/dev/null | grep -q S_IDLE'
)

#: For a shell in a node: waits until the DC is idle three times in a row.
#: Exit status 1 and a message after :data:`LIMIT_S`.
COMMAND = (
    f"end=$(($(date +%s) + {LIMIT_S})); idle=0; while [ $idle -lt 3 ]; do "
    'if [ "$(date +%s)" -gt $end ]; then '
    f"echo 'the cluster is not idle after {LIMIT_S} s' >&2; crm_mon -1 >&2; exit 1; fi; "
    f"if {_LOOK}; then idle=$((idle + 1)); else idle=0; fi; sleep 0.3; done"
)
