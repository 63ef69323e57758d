# SPDX-License-Identifier: GPL-2.0-or-later
"""The activations of this host, by resource and by domain."""

from __future__ import annotations

from vesper_monitor.faults.activation import ResourceActivation
from vesper_monitor.hypervisor.transport import Domain

__all__ = ["ActivationRegistry"]


class ActivationRegistry:
    """Activations that have not ended; a resource has one at most."""

    def __init__(self) -> None:
        self._by_resource: dict[str, ResourceActivation] = {}
        self._by_domain: dict[tuple[str, int], list[ResourceActivation]] = {}

    def __len__(self) -> int:
        return len(self._by_resource)

    def __contains__(self, resource: str) -> bool:
        return resource in self._by_resource

    def list_all(self) -> list[ResourceActivation]:
        """Return all activations."""
        return list(self._by_resource.values())

    def get_activation(self, resource: str) -> ResourceActivation | None:
        """Return the activation of a resource; None: it has none."""
        return self._by_resource.get(resource)

    def of_domain(self, domain: Domain) -> list[ResourceActivation]:
        """Return the activations whose domain is this one."""
        return list(self._by_domain.get(domain.key, ()))

    def of_vm(self, vm: str) -> list[ResourceActivation]:
        """Return the activations whose domain has this name."""
        return [activation for activation in self.list_all() if activation.record.vm == vm]

    def add_activation(self, activation: ResourceActivation) -> None:
        """Add an activation; its resource must have none."""
        record = activation.record
        assert record.resource not in self._by_resource
        self._by_resource[record.resource] = activation
        self._by_domain.setdefault((record.uuid, record.domid), []).append(activation)

    def remove_activation(self, resource: str) -> ResourceActivation | None:
        """Remove the activation of a resource. :returns: the activation; None: it had none."""
        activation = self._by_resource.pop(resource, None)
        if activation is not None:
            key = activation.record.uuid, activation.record.domid
            self._by_domain[key].remove(activation)
            if not self._by_domain[key]:
                del self._by_domain[key]
        return activation
