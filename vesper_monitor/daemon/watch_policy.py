# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wanted of the watch of a domain: by its resources, by operators, by vesperd.toml."""

from __future__ import annotations

from collections.abc import Iterable

from vesper_monitor.daemon.config import Config
from vesper_monitor.daemon.operator_wishes import OperatorWishes
from vesper_monitor.faults.activations import Activations
from vesper_monitor.guest.dynamic_probes.store import DynamicProbeStore
from vesper_monitor.hypervisor.transport import Domain
from vesper_monitor.journal.records import ActivationRecord

__all__ = ["WatchPolicy"]


class WatchPolicy:
    """The probes and the time limits of each domain."""

    def __init__(
        self,
        config: Config,
        activations: Activations,
        operators: OperatorWishes,
        dynamic_probes: DynamicProbeStore,
    ) -> None:
        self._config = config
        self._activations = activations
        self._operators = operators
        self._dynamic_probes = dynamic_probes

    def wanted_probes(self, domain: Domain) -> dict[str, str] | None:
        """Return parameters by probe, or None if neither a resource nor an operator watches it."""
        activations = self._activations.of_domain(domain)
        if not activations and domain.name not in self._operators.activated:
            return None
        names = [probe for activation in activations for probe in activation.record.wishes.probes]
        names += self._operators.activated.get(domain.name, ())
        return self.add_dynamic_probes(domain, names)

    def add_dynamic_probes(self, domain: Domain, probes: Iterable[str]) -> dict[str, str]:
        """Return parameters by probe: some probes, and those that operators have added."""
        added = self._dynamic_probes.probes_of_vm(domain.name)
        return dict.fromkeys(probes, "") | {name: probe.text for name, probe in added.items()}

    def get_hang_timeout(self, domain: Domain) -> float:
        """Return the shortest limit that its resources want, in s; 0: do not look for hangs."""
        limits = [record.wishes.hang_timeout for record in self._records_of(domain)]
        return _shortest_limit(limits, self._config.hang_timeout)

    def get_pause_timeout(self, domain: Domain, likely_asked: bool) -> float:
        """Return how long the domain may be paused, in s; 0: without limit.

        :param likely_asked: most likely an operator has paused it: vesperd.toml's
            limit does not count then.
        """
        limits = [record.wishes.pause_timeout for record in self._records_of(domain)]
        return _shortest_limit(limits, 0.0 if likely_asked else self._config.pause_timeout)

    def get_boot_timeout(self, domain: Domain, *, is_first: bool) -> float:
        """Return how long its guest may boot, in s; 0: without limit.

        :param is_first: the domain's first boot.  Only its resources know then whether the
            guest has VESPER's modules: vesperd.toml's limit does not count.
        """
        limits = [record.wishes.boot_timeout for record in self._records_of(domain)]
        return _shortest_limit(limits, 0.0 if is_first else self._config.boot_timeout)

    def _records_of(self, domain: Domain) -> list[ActivationRecord]:
        return [activation.record for activation in self._activations.of_domain(domain)]


def _shortest_limit(given: Iterable[float | None], default: float) -> float:
    """Return the least limit that is not 0, or 0 if there is none.

    :param given: None: the default counts.
    """
    seconds = [default if value is None else value for value in given] or [default]
    return min((value for value in seconds if value), default=0.0)
