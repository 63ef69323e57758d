# SPDX-License-Identifier: GPL-2.0-or-later
"""Where built images are kept: one directory each, named after a hash of its inputs.

An image is built in a temporary directory and renamed when it is complete, so
that a broken build is never taken for an image.  Of two builders of the same
image the second waits and takes what the first has made.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.progress import note_progress, show_step
from vesper_monitor.util.errors import VesperError

__all__ = [
    "BuildError",
    "build_image",
    "cache_directory",
    "hash_inputs",
    "hold_lock",
    "run_build_command",
]

#: An image's predecessors are removed when nobody has used them for so long (s).
KEEP_UNUSED_S = 3 * 24 * 3600


class BuildError(VesperError):
    """An image cannot be built; the text says which command failed and how."""


def cache_directory() -> Path:
    """``VESPER_LAB_CACHE``, or /var/cache/vesper-lab."""
    path = Path(os.environ.get("VESPER_LAB_CACHE", "/var/cache/vesper-lab"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def hash_inputs(*parts: object) -> str:
    """Hash of the inputs: text, bytes, and files (path and content)."""
    h = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            data = part.name.encode() + b"\0" + part.read_bytes()
        elif isinstance(part, bytes):
            data = part
        else:
            data = str(part).encode()
        h.update(len(data).to_bytes(8, "little") + data)
    return h.hexdigest()[:12]


def run_build_command(
    command: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    stdin: bytes = b"",
) -> bytes:
    """Run a command of a build.

    :param timeout: seconds.
    :returns: its standard output.
    :raises BuildError: with the end of what it said.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, input=stdin, capture_output=True, timeout=timeout, cwd=cwd, env=env
        )
    except FileNotFoundError as error:
        raise BuildError(f"{words[0]} is not installed; run 'make deps'") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{' '.join(words)}: not done after {timeout:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise BuildError(f"{' '.join(words)}: exit status {done.returncode}\n{said[-3000:]}")
    return done.stdout


@contextmanager
def hold_lock(name: str) -> Iterator[None]:
    """Hold the lock of that name among all processes that share the cache."""
    with (cache_directory() / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note_progress(f"{name}: somebody else is building it, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_image(name: str, key: str, make: Callable[[Path], None], *, what: str = "") -> Path:
    """The image directory ``NAME-KEY``; made by ``make(directory)`` if missing.

    :param what: shown while it is built.
    """
    final = cache_directory() / f"{name}-{key}"
    if final.is_dir():
        os.utime(final)
        return final
    with hold_lock(f"{name}-{key}"):
        if final.is_dir():
            return final
        temporary = cache_directory() / f".{name}-{key}.{os.getpid()}"
        _remove_image(temporary)
        temporary.mkdir()
        try:
            with show_step(what or f"building {name}"):
                make(temporary)
            temporary.rename(final)
        finally:
            if temporary.exists():
                _remove_image(temporary)
        _clean_old_images(name, final)
    return final


def _clean_old_images(name: str, keep: Path) -> None:
    """Remove remains of broken builds, and old images that nobody uses any more."""
    for path in cache_directory().glob(f"{name}-*"):
        if path != keep and time.time() - path.stat().st_mtime > KEEP_UNUSED_S:
            _remove_image(path)
    for path in cache_directory().glob(f".{name}-*.*"):
        pid = path.suffix[1:]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            _remove_image(path)
        # It is written anew whenever somebody takes the lock.
        if path.suffix == ".lock" and time.time() - path.stat().st_mtime > KEEP_UNUSED_S:
            _remove_image(path)


def _remove_image(path: Path) -> None:
    if any(line.split()[1].startswith(f"{path}/") for line in _read_mounts()):
        raise BuildError(f"{path}: something is mounted in it; unmount it, then remove it")
    shutil.rmtree(path, ignore_errors=False) if path.is_dir() else path.unlink(missing_ok=True)


def _read_mounts() -> list[str]:
    return Path("/proc/mounts").read_text().splitlines()
