# SPDX-License-Identifier: GPL-2.0-or-later
"""``make install`` on a hardened host, and over a version that is in use."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.ocf.support.host import PROJECT
from tests.unit.ocf.support.library import find_agent_modules, install


@pytest.fixture
def installed() -> Iterator[Path]:
    """What a root with umask 077 installs."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # for anybody, unlike pytest's folders
        before = os.umask(0o077)
        try:
            install(Path(folder) / "root")
        finally:
            os.umask(before)
        yield Path(folder) / "root"


def test_a_fresh_checkout_installs(tmp_path: Path) -> None:
    """Nothing has been built there yet, and git need not know it."""
    tree = tmp_path / "vesper"
    tree.mkdir()
    for name in ("Makefile", "README.md", "setup.cfg"):
        shutil.copy(PROJECT / name, tree)
    for name in ("LICENSES", "docs", "ocf", "probe_modules", "xen_transport", "kvm_transport",
                 "vesper_monitor"):  # fmt: skip
        ignored = shutil.ignore_patterns("build", "__pycache__")
        shutil.copytree(PROJECT / name, tree / name, symlinks=True, ignore=ignored)
    shutil.copy(PROJECT / "LICENSE", tree)
    install(tmp_path / "root", tree)
    assert (tmp_path / "root/usr/sbin/vesper").is_file()
    assert (tmp_path / "root/usr/share/man/man7/vesper-points.7").is_file()


def test_everybody_can_read_it(installed: Path) -> None:
    wrong = []
    for path in (installed, *installed.rglob("*")):
        mode = path.lstat().st_mode & 0o777
        wanted = 0o555 if path.is_dir() else 0o444
        if not path.is_symlink() and mode & wanted != wanted:
            wrong.append(f"{mode:o} {path}")
    assert wrong == []


def test_agents_are_the_only_programs_beside_them(installed: Path) -> None:
    """Pacemaker takes each executable file there for an agent."""
    folder = installed / "usr/lib/ocf/resource.d/vesper"
    executable = [path.name for path in folder.iterdir() if path.stat().st_mode & 0o111]
    assert sorted(executable) == ["LibvirtVM", "XenVM"]


def test_sizes_are_those_of_the_files(installed: Path) -> None:
    library = installed / "usr/lib/python3/dist-packages"
    lines = (library / "vesper_monitor/installed-sizes").read_text().splitlines()
    assert len(lines) > 30
    for line in lines:
        size, _, path = line.partition(" ")
        assert (library / path).stat().st_size == int(size)


def test_sizes_cover_all_that_an_agent_imports(installed: Path) -> None:
    """A file that is cut off may well be loaded, and judge wrongly."""
    library = installed / "usr/lib/python3/dist-packages"
    lines = (library / "vesper_monitor/installed-sizes").read_text().splitlines()
    covered = {line.partition(" ")[2] for line in lines}
    needed = {path for path in find_agent_modules(library) if path.startswith("vesper_monitor/")}
    assert len(needed) > 60
    assert needed <= covered, sorted(needed - covered)


def test_a_new_version_replaces_the_old_as_a_whole(installed: Path) -> None:
    """No file is written where an agent may read it meanwhile, and none of the old is left."""
    library = installed / "usr/lib/python3/dist-packages"
    agents = installed / "usr/lib/ocf/resource.d/vesper"
    (library / "vesper_monitor/old.py").touch()
    (library / "vesper-0.2.0.egg-info").mkdir()
    (library / "vesper-0.2.0.egg-info/entry_points.txt").touch()
    kept = [library / "vesper_monitor/ocf/agent.py", agents / "XenVM"]
    with kept[0].open() as module, kept[1].open() as agent:
        for file in module, agent:
            file.read(100)
        install(installed)
        for file, path in zip((module, agent), kept, strict=True):
            assert os.fstat(file.fileno()).st_ino != path.stat().st_ino
            assert file.read()  # whoever has it open reads on
    assert not (library / "vesper_monitor/old.py").exists()
    assert sorted(path.name for path in library.iterdir() if path.suffix != ".egg-info") == [
        "kvm_transport", "vesper_monitor", "xen_transport",
    ]  # fmt: skip
    (entry_points,) = library.glob("*.egg-info/entry_points.txt")
    assert "XenTransport" in entry_points.read_text()


def test_entry_points_of_an_older_version_do_not_stay(installed: Path) -> None:
    """Python would take those that the folder happens to list first."""
    library = installed / "usr/lib/python3/dist-packages"
    old = library / "vesper-0.2.0.egg-info"
    old.mkdir()
    (old / "entry_points.txt").write_text("[vesper.transports]\nxen = xen_transport:XenTransport\n")
    other = library / "vesper_other-1.0.egg-info"
    other.mkdir()
    install(installed)
    assert not old.exists()
    assert other.exists()
    assert len(list(library.glob("vesper-*.egg-info"))) == 1


def test_files_beside_an_agent_come_after_those_that_they_import() -> None:
    """An agent that runs meanwhile, while its library is replaced, needs a whole fallback."""
    makefile = (PROJECT / "Makefile").read_text()
    names = re.findall(r"for file in (.* XenVM LibvirtVM);", makefile)[0].split()
    assert {path.name for path in (PROJECT / "ocf").glob("*.py")} <= {*names}
    for place, name in enumerate(names):
        needed = re.findall(r"from (fallback_\w+) import", (PROJECT / "ocf" / name).read_text())
        assert {f"{module}.py" for module in needed} <= {*names[:place]}, name


def test_commands_run_as_anybody(installed: Path) -> None:
    library = installed / "usr/lib/python3/dist-packages"
    subprocess.run(
        ["/usr/bin/python3", installed / "usr/sbin/vesper", "--help"],
        env={"PYTHONPATH": str(library), "PATH": "/usr/bin:/bin"},
        user="nobody",
        group="nogroup",
        extra_groups=[],
        check=True,
        capture_output=True,
        timeout=30,
    )
