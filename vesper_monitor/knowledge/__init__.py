# SPDX-License-Identifier: GPL-2.0-or-later
"""Symptoms, read from files; symptoms.toml describes their format.

Where VESPER is installed, /usr/share/vesper/knowledge leads to the files beside this one.
Users add files of their own in :data:`OWN`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vesper_monitor.rules.language import RuleError, parse_rules
from vesper_monitor.util.errors import VesperError

__all__ = ["OWN", "SHIPPED", "KnowledgeError", "Symptom", "load_symptoms", "matched_words"]

SHIPPED = Path(__file__).parent
OWN = Path("/etc/vesper/knowledge.d")

#: Bytes of a file.
MAX_FILE_BYTES = 1 << 20


class KnowledgeError(VesperError):
    """A file is wrong; the text names it."""


@dataclass(frozen=True)
class Symptom:
    """A symptom; symptoms.toml describes the fields."""

    name: str
    title: str
    words: tuple[str, ...]
    probes: tuple[str, ...]
    why: str
    source: str
    rules: str = ""
    seen: str = ""
    also: str = ""
    cost: str = ""
    kernels: str = ""
    always: bool = False
    service: bool = False
    instead: tuple[str, ...] = ()


def load_symptoms(directories: Iterable[Path] = (SHIPPED, OWN)) -> list[Symptom]:
    """Return all symptoms; one of a later file replaces that of the same name.

    :raises KnowledgeError:
    """
    found: dict[str, Symptom] = {}
    for directory in directories:
        for path in sorted(directory.glob("*.toml")):
            for symptom in _read_file(path):
                found[symptom.name] = symptom
    return list(found.values())


def matched_words(symptom: Symptom, text: str) -> list[str]:
    """Return the words of a symptom that are in a text: whole, in upper or lower case."""
    said = f" {_plain_words(text)} "
    return [word for word in symptom.words if f" {_plain_words(word)} " in said]


def _plain_words(text: str) -> str:
    """Return the words of a text, with single blanks between them."""
    return " ".join(re.findall(r"[a-z0-9/%_-]+", text.lower()))


def _read_file(path: Path) -> list[Symptom]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise KnowledgeError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise KnowledgeError(f"{path}: {error}") from error
    entries = content.get("symptom")
    if set(content) != {"symptom"} or not isinstance(entries, list):
        raise KnowledgeError(f"{path}: only entries [[symptom]] are expected")
    return [_read_symptom(path, number, entry) for number, entry in enumerate(entries, 1)]


def _read_symptom(path: Path, number: int, entry: Any) -> Symptom:
    where = f"{path}: symptom {number}"
    if not isinstance(entry, dict):
        raise KnowledgeError(f"{where}: a table is expected")
    if isinstance(entry.get("name"), str):
        where = f"{path}: symptom {entry['name']}"
    values: dict[str, Any] = {}
    for field in fields(Symptom):
        if field.name not in entry:
            if field.name in ("name", "title", "words", "probes", "why", "source"):
                raise KnowledgeError(f"{where}: {field.name} is missing")
            continue
        value = entry[field.name]
        if field.name in ("words", "probes", "instead"):
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise KnowledgeError(f"{where}: {field.name} must be a list of texts")
            value = tuple(value)
        elif not isinstance(value, bool if field.name in ("always", "service") else str):
            raise KnowledgeError(f"{where}: {field.name} has the wrong type")
        values[field.name] = value
    if unknown := set(entry) - set(values):
        raise KnowledgeError(f"{where}: unknown keys: {', '.join(sorted(unknown))}")
    for key in ("rules", "seen"):
        try:
            parse_rules(values.get(key, ""))
        except RuleError as error:
            raise KnowledgeError(f"{where}: {key}: {error}\n{error.show_place()}") from error
    return Symptom(**values)
