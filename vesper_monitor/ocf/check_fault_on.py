# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks the parameter ``fault_on`` before the VM starts.

A monitor does not import this: vesperd tells it whether the text is wrong.
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
    """Return the first error in the rules and its place; empty if there is none.

    Doubts go to the log: a probe that is not built in, or that is not loaded.
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
