# SPDX-License-Identifier: GPL-2.0-or-later
"""``python3 -m lab.images.checkpatch FILE...``: the kernel's style checker.

Debian ships scripts/checkpatch.pl in the kernel's source package only (140 MB);
it is fetched once and the script kept.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab.images import store

__all__ = ["fetch_checkpatch"]

PACKAGE = "linux-source-6.1"
FILES = ("checkpatch.pl", "spelling.txt", "const_structs.checkpatch")

#: What does not apply here, and why.
IGNORE = (
    "FILE_PATH_CHANGES",  # about patches to the kernel's own tree
    "CAMELCASE",  # the xenbus states' names, which are Xen's
    "BIT_MACRO",  # the ABI header is compiled in user space, too
    "STATIC_CONST_CHAR_ARRAY",  # call_usermodehelper_setup() wants a char **
)


def fetch_checkpatch() -> Path:
    """Return the script; fetch it first if it is missing.

    :raises BuildError: the package cannot be had.
    """

    def fetch_script(directory: Path) -> None:
        download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", PACKAGE]
        try:
            store.run_build_command(download, timeout=600, cwd=directory)
        except store.BuildError:
            store.run_build_command(["apt-get", "-q", "update"], timeout=300)
            store.run_build_command(download, timeout=600, cwd=directory)
        (deb,) = directory.glob("*.deb")
        inner = f"usr/src/{PACKAGE}.tar.xz"
        store.run_build_command(
            ["sh", "-c", f'dpkg --fsys-tarfile "$1" | tar -x ./{inner}', "sh", deb],
            timeout=120,
            cwd=directory,
        )
        names = [f"{PACKAGE}/scripts/{name}" for name in FILES]
        store.run_build_command(
            ["tar", "-xJf", inner, "--strip-components=2", *names], timeout=300, cwd=directory
        )
        deb.unlink()
        (directory / inner).unlink()
        (directory / "include").mkdir()  # of the kernel's tree; it looks there for names

    key = store.hash_inputs(PACKAGE, FILES)
    return store.build_image("checkpatch", key, fetch_script, what="fetching checkpatch") / FILES[0]


def main() -> int:
    try:
        script = fetch_checkpatch()
    except store.BuildError as error:
        print(f"checkpatch: {error}", file=sys.stderr)
        return 1
    command = ["perl", str(script), "--strict", "--no-tree", "--terse", "--quiet", "--no-summary"]
    command += [f"--root={script.parent}", "--max-line-length=100"]
    command += ["--ignore=" + ",".join(IGNORE), "--file"]
    command += [str(Path(name).resolve()) for name in sys.argv[1:]]
    # In the script's own folder: it writes a cache file where it runs.
    return subprocess.run(command, cwd=script.parent, timeout=300).returncode


if __name__ == "__main__":
    sys.exit(main())
