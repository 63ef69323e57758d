# SPDX-License-Identifier: GPL-2.0-or-later
"""Meta-data of an OCF agent as XML, by the Resource Agent API 1.1."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent
from xml.sax.saxutils import escape, quoteattr

__all__ = ["Action", "Parameter", "meta_data"]


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    :param kind: ``string``, ``integer`` or ``boolean``.
    :param unique_group: no two resources have the same values of all
        parameters of that group.
    """

    name: str
    kind: str
    short: str
    long: str
    default: str | None = None
    required: bool = False
    unique_group: str | None = None
    reloadable: bool = False


@dataclass(frozen=True)
class Action:
    """One action and what is advised for it (as Pacemaker reads times: ``30s``)."""

    name: str
    timeout: str
    interval: str | None = None
    depth: str | None = None


def meta_data(
    name: str,
    version: str,
    short: str,
    long: str,
    parameters: list[Parameter],
    actions: list[Action],
) -> str:
    """The whole document."""
    return "\n".join(
        [
            '<?xml version="1.0"?>',
            f"<resource-agent name={quoteattr(name)} version={quoteattr(version)}>",
            "<version>1.1</version>",
            _text("longdesc", long),
            _text("shortdesc", short),
            "<parameters>",
            *map(_parameter, parameters),
            "</parameters>",
            "<actions>",
            *map(_action, actions),
            "</actions>",
            "</resource-agent>",
            "",
        ]
    )


def _text(element: str, text: str) -> str:
    return f'<{element} lang="en">{escape(dedent(text).strip())}</{element}>'


def _attributes(pairs: dict[str, str | None]) -> str:
    return "".join(
        f" {key}={quoteattr(value)}" for key, value in pairs.items() if value is not None
    )


def _parameter(p: Parameter) -> str:
    attributes = _attributes(
        {
            "name": p.name,
            "unique-group": p.unique_group,
            "required": str(int(p.required)),
            "reloadable": str(int(p.reloadable)),
        }
    )
    return "\n".join(
        [
            f"<parameter{attributes}>",
            _text("longdesc", p.long),
            _text("shortdesc", p.short),
            f"<content{_attributes({'type': p.kind, 'default': p.default})}/>",
            "</parameter>",
        ]
    )


def _action(a: Action) -> str:
    pairs = {"name": a.name, "timeout": a.timeout, "interval": a.interval, "depth": a.depth}
    return f"<action{_attributes(pairs)}/>"
