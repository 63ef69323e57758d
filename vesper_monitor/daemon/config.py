# SPDX-License-Identifier: GPL-2.0-or-later
"""vesperd's configuration: /etc/vesper/vesperd.toml.

Every key has a default, and the file need not exist.  A key that is unknown or
of the wrong type is an error that names the file and the key: a setting that
is silently ignored is worse than a vesperd that does not start and says why.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vesper_monitor.client import SOCKET_PATH
from vesper_monitor.guest.health.hang_detector import MIN_TIMEOUT_S
from vesper_monitor.util.errors import VesperError

__all__ = ["DEFAULT_PATH", "Config", "ConfigError", "load_config"]

DEFAULT_PATH = Path("/etc/vesper/vesperd.toml")

DEFAULT_PROBES = ("send_signal", "out_of_memory")


class ConfigError(VesperError):
    """A configuration file that cannot be used; the text names it and the key."""


@dataclass(frozen=True)
class Config:
    """All settings. The file vesperd.toml describes each."""

    socket: str = SOCKET_PATH
    group: str = "vesper"
    journal: str = "/var/lib/vesper/journal.sqlite"
    probes_dir: str = "/var/lib/vesper/probes"
    log_level: str = "info"
    #: names of transports; empty: all that this host can use
    transports: tuple[str, ...] = ()
    #: s to wait for a guest's frontend before the VM counts as degraded
    activate_timeout: float = 90.0
    #: s by which a monitor may be late before a fault is reported to Pacemaker
    #: without it
    monitor_grace: float = 10.0
    #: faults of one VM that are reported in an hour; more have to wait
    max_failovers: int = 10
    #: s without a sign of life after which a guest hangs; 0: do not look
    hang_timeout: float = 5.0
    #: s that a VM may be paused without a known reason; 0: no limit
    pause_timeout: float = 60.0
    #: s that a guest may boot after a reset; 0: no limit
    boot_timeout: float = 0.0
    #: events kept in the journal
    keep_events: int = 100_000
    #: ended faults kept in the journal
    keep_faults: int = 10_000
    max_clients: int = 2000
    #: by name of the transport: its own settings, which it checks itself
    transport_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load_config(path: Path = DEFAULT_PATH, *, required: bool = False) -> Config:
    """Read the configuration file, or return the defaults if there is none.

    :param required: a missing file is an error.
    :raises ConfigError: the file cannot be used.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{path}: no such file") from None
        return Config()
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    known = {field.name: field for field in dataclasses.fields(Config)}
    del known["transport_settings"]
    tables = {
        key: value for key, value in table.items() if isinstance(value, dict) and key not in known
    }
    values: dict[str, Any] = {"transport_settings": tables}
    for key, value in table.items():
        if key in tables:
            continue
        if key not in known:
            raise ConfigError(f"{path}: unknown key '{key}' (known: {', '.join(sorted(known))})")
        values[key] = _check_value(path, key, value, known[key].default)
    return Config(**values)


def _check_value(path: Path, key: str, value: object, default: object) -> object:
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ConfigError(f"{path}: '{key}' must be a string, not {value!r}")
        levels = ("debug", "info", "warning", "error")
        if "\0" in value:
            raise ConfigError(f"{path}: '{key}' must not have a NUL in it: {value!r}")
        if key in ("socket", "journal", "probes_dir") and not value:
            raise ConfigError(f"{path}: '{key}' must be a path, not empty")
        if key == "log_level" and value not in levels:
            raise ConfigError(f"{path}: '{key}' must be one of {', '.join(levels)}")
        return value
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{path}: '{key}' must be a list of strings, not {value!r}")
        return tuple(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ConfigError(f"{path}: '{key}' must be a number that is not negative, not {value!r}")
    if isinstance(default, int):
        if not isinstance(value, int):
            raise ConfigError(f"{path}: '{key}' must be a whole number, not {value!r}")
        if value < 1:
            raise ConfigError(f"{path}: '{key}' must be at least 1")
        return value
    if key == "hang_timeout" and 0 < value < MIN_TIMEOUT_S:
        raise ConfigError(f"{path}: '{key}' must be 0 or at least {MIN_TIMEOUT_S:g}")
    return float(value)
