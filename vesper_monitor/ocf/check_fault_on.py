# SPDX-License-Identifier: GPL-2.0-or-later
"""The parameter ``fault_on``, looked at before the VM starts.

Not imported by a monitor: vesperd says whether a text is wrong.
"""

from __future__ import annotations

from vesper_monitor.knowledge.probes import PROBES
from vesper_monitor.ocf.invocation import log_line
from vesper_monitor.rules.conditions import NONE
from vesper_monitor.rules.language import RuleError, parse_rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vesper_monitor.ocf.settings import Settings

__all__ = ["wrong_rules"]


def wrong_rules(settings: Settings) -> str:
    """What is wrong with the rules, and where; empty if nothing is.

    What is only doubtful goes to the log: a probe that is not built in, or is
    not among those that are loaded.
    """
    try:
        parsed = parse_rules(settings.fault_on)
    except RuleError as error:
        return f"parameter fault_on: {error}"
    for doubt in parsed.doubts:
        log_line(f"parameter fault_on: {doubt}")
    for rule in parsed.rules:
        if rule.probe in PROBES and rule.probe not in settings.probes and rule.condition != NONE:
            log_line(
                f"parameter fault_on: {rule.text}: parameter probes does not have {rule.probe}"
            )
    return ""
