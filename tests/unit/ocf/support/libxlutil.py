# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's own reader of xl.cfg, as ``xl`` uses it (Debian's libxenmisc4.17)."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import resource
from dataclasses import dataclass

__all__ = ["Verdict", "read_configs"]

LIBRARY = "libxlutil.so.4.17"


@dataclass(frozen=True)
class Verdict:
    """What libxlutil makes of a file: whether it takes it, and two of its values."""

    accepted: bool
    name: bytes | None = None
    maxmem: int | None = None


def read_configs(*files: bytes) -> list[Verdict]:
    """Have libxlutil read files.

    It does so in a process of its own: it ends by an assertion where a string holds
    a NUL, and such a file is refused, too.
    """
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.write(done, pickle.dumps([_parse(data) for data in files]))
        finally:
            os._exit(1)
    os.close(done)
    with os.fdopen(ready, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    if said:
        return list(pickle.loads(said))
    if len(files) == 1:
        return [Verdict(False)]
    return [verdict for data in files for verdict in read_configs(data)]


def _parse(data: bytes) -> Verdict:
    library, libc = ctypes.CDLL(LIBRARY), ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    library.xlu_cfg_init.restype = ctypes.c_void_p
    report = ctypes.c_void_p(libc.fopen(os.devnull.encode(), b"w"))
    config = ctypes.c_void_p(library.xlu_cfg_init(report, b"test"))
    if library.xlu_cfg_readdata(config, data, len(data)) != 0:
        return Verdict(False)
    name, maxmem = ctypes.c_char_p(), ctypes.c_long()
    no_name = library.xlu_cfg_get_string(config, b"name", ctypes.byref(name), 1)
    no_maxmem = library.xlu_cfg_get_long(config, b"maxmem", ctypes.byref(maxmem), 1)
    return Verdict(True, None if no_name else name.value, None if no_maxmem else maxmem.value)
