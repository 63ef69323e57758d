# SPDX-License-Identifier: GPL-2.0-or-later
"""The image store, and archives."""

from __future__ import annotations

import multiprocessing
import subprocess
from pathlib import Path

import pytest

from lab.images import store
from lab.images.cpio import Archive


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VESPER_LAB_CACHE", str(tmp_path))
    return tmp_path


def test_image_is_built_once(cache: Path) -> None:
    built = []

    def make(directory: Path) -> None:
        built.append(directory)
        (directory / "file").write_text("x")

    first = store.build_image("thing", "key", make)
    assert store.build_image("thing", "key", make) == first
    assert len(built) == 1
    assert (first / "file").read_text() == "x"
    assert store.build_image("thing", "other", make) != first


def test_broken_build_leaves_nothing(cache: Path) -> None:
    def make(directory: Path) -> None:
        (directory / "file").write_text("half")
        raise store.BuildError("no")

    with pytest.raises(store.BuildError):
        store.build_image("thing", "key", make)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_remains_of_a_killed_build_are_removed(cache: Path) -> None:
    remains = cache / ".thing-key.999999999"
    remains.mkdir()
    store.build_image("thing", "key", lambda directory: None)
    assert not remains.exists()


def _build(cache: Path) -> None:
    def make(directory: Path) -> None:
        with (cache / "log").open("a") as log:
            log.write("built\n")

    store.build_image("thing", "key", make)


def test_of_two_builders_the_second_waits(cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    builders = [context.Process(target=_build, args=(cache,)) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(30)
        assert builder.exitcode == 0
    assert (cache / "log").read_text() == "built\n"


def test_failed_command_shows_its_words() -> None:
    with pytest.raises(store.BuildError, match="exit status 3\nwords"):
        store.run_build_command(["sh", "-c", "echo words; exit 3"], timeout=10)
    with pytest.raises(store.BuildError, match="not done after"):
        store.run_build_command(["sleep", "10"], timeout=0.1)
    with pytest.raises(store.BuildError, match="not installed"):
        store.run_build_command(["no-such-command"], timeout=1)


def test_digest_tells_inputs_apart(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    keys = {store.hash_inputs("a", "bc"), store.hash_inputs("ab", "c"), store.hash_inputs(file)}
    file.write_text("two")
    keys.add(store.hash_inputs(file))
    assert len(keys) == 4


def test_cpio_can_read_the_archive(tmp_path: Path) -> None:
    archive = Archive()
    archive.add_file("init", b"#!/bin/sh\n", 0o755)
    archive.add_file("lib/modules/odd", b"12345")
    archive.add_link("bin/sh", "busybox")
    (tmp_path / "source").write_bytes(bytes(range(256)))
    archive.copy_file("lib/data", tmp_path / "source")
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(
        ["cpio", "-idm", "--quiet"],
        input=archive.finish_archive(),
        cwd=folder,
        check=True,
        timeout=30,
    )
    assert (folder / "init").stat().st_mode & 0o777 == 0o755
    assert (folder / "lib/modules/odd").read_bytes() == b"12345"
    assert (folder / "lib/data").read_bytes() == bytes(range(256))
    assert (folder / "bin/sh").readlink() == Path("busybox")
