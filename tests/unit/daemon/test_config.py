# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd.toml: defaults, errors, and that the documented file says the truth."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
from pathlib import Path

import pytest

import vesper_monitor
from kvm_transport.transport import KvmTransport
from vesper_monitor.daemon.config import Config, ConfigError, load_config

EXAMPLE = Path(vesper_monitor.__file__).parent / "vesperd.toml"


def test_no_file_is_fine_unless_asked_for(tmp_path: Path) -> None:
    assert load_config(tmp_path / "none.toml") == Config()
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.toml", required=True)


def test_the_example_shows_every_key_with_its_default(tmp_path: Path) -> None:
    lines = EXAMPLE.read_text().splitlines()
    active = [line[1:] for line in lines if line.startswith("#") and not line.startswith("# ")]
    path = tmp_path / "vesperd.toml"
    path.write_text("\n".join(line for line in active if line))
    config = load_config(path)
    tables = config.transport_settings
    assert dataclasses.replace(config, transport_settings={}) == Config()
    keys = itertools.takewhile(lambda line: not line.startswith("["), active)
    assert {line.split(" =")[0] for line in keys if line} | {"transport_settings"} == {
        field.name for field in dataclasses.fields(Config)
    }
    # Those of a transport are its class's keyword arguments.
    parameters = inspect.signature(KvmTransport).parameters.values()
    assert tables == {"kvm": {parameter.name: parameter.default for parameter in parameters}}


def test_the_manual_page_shows_every_key_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs/man/vesperd.toml.5").read_text()
    plain = page.replace(r"\(dq", '"').replace(r"\-", "-")
    shown = dict(re.findall(r'^\.BR (\w+) " = ?(.*)$', plain, re.M))
    keys = [field for field in dataclasses.fields(Config) if field.name != "transport_settings"]
    defaults = {field.name: field.default for field in keys}
    parameters = inspect.signature(KvmTransport).parameters.values()
    defaults |= {parameter.name: parameter.default for parameter in parameters}
    assert {key: value.strip('" ') for key, value in shown.items()} == {
        key: "[]" if value == () else str(value) for key, value in defaults.items()
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("keep_event = 5", "unknown key 'keep_event'"),
        ("keep_events = 1.5", "'keep_events' must be a whole number"),
        ("keep_events = 0", "'keep_events' must be at least 1"),
        ("keep_events = true", "'keep_events' must be a number"),
        ("monitor_grace = -1", "'monitor_grace' must be a number that is not negative"),
        ("socket = 1", "'socket' must be a string"),
        ("[socket]\nkvm = 1", "'socket' must be a string"),
        ("transports = 'xen'", "'transports' must be a list"),
        ("log_level = 'loud'", "'log_level' must be one of"),
        ("socket = ", "Invalid value"),
        ("journal = ''", "'journal' must be a path"),
        ('socket = "a\\u0000b"', "'socket' must not have a NUL"),
        ('group = "a\\u0000b"', "'group' must not have a NUL"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "vesperd.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(path) in str(error.value)
    assert what in str(error.value)


def test_whole_numbers_are_seconds_too(tmp_path: Path) -> None:
    path = tmp_path / "vesperd.toml"
    path.write_text("monitor_grace = 3\ntransports = ['xen']\n")
    config = load_config(path)
    assert (config.monitor_grace, config.transports) == (3.0, ("xen",))
