# SPDX-License-Identifier: GPL-2.0-or-later
"""Probe images: which fits, and what is said where none does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.standin.image import RELEASE, make_image, make_store, make_vermagic
from vesper_monitor.guest.control import images, secure_open
from vesper_monitor.guest.control.images import ImageError, ImageStore
from vesper_monitor.guest.control.modinfo import ModinfoError, read_modinfo


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    make_store(tmp_path)
    return ImageStore(tmp_path)


def test_an_image_of_the_release_is_found(store: ImageStore) -> None:
    image = store.find_image("vm1", RELEASE, make_vermagic(), "send_signal")
    assert image.name == "send_signal"
    assert image.data == make_image("send_signal")
    assert [i.name for i in store.list_images()] == ["out_of_memory", "send_signal"]


def test_an_image_of_another_vermagic_is_refused(store: ImageStore) -> None:
    with pytest.raises(ImageError, match=r"vesper probe build 6\.1\.0-standin"):
        store.find_image("vm1", RELEASE, make_vermagic() + " other", "send_signal")


def test_a_missing_image_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"vm1: guest kernel 6.6 has no image .*have: none"):
        ImageStore(tmp_path / "nowhere").find_image("vm1", "6.6", "6.6 SMP", "send_signal")


@pytest.mark.parametrize("release", ["../../etc", "", ".", "..", "a/b", "a b", "\x1b[2J", "-x"])
def test_impossible_names_are_refused(store: ImageStore, release: str) -> None:
    """The release is the guest's word and becomes part of a path."""
    with pytest.raises(ImageError):
        store.find_image("vm1", release, make_vermagic(), "send_signal")
    with pytest.raises(ImageError):
        store.find_image("vm1", RELEASE, make_vermagic(), release)


def test_a_file_that_is_no_module_is_refused(store: ImageStore) -> None:
    (store.root / RELEASE / "send_signal.ko").write_bytes(b"text")
    with pytest.raises(ImageError, match="not a 64-bit"):
        store.find_image("vm1", RELEASE, make_vermagic(), "send_signal")
    assert [i.name for i in store.list_images()] == ["out_of_memory"]


def test_an_image_that_is_too_large_is_refused(store: ImageStore) -> None:
    with (store.root / RELEASE / "send_signal.ko").open("r+b") as file:
        file.truncate(images.MAX_IMAGE_BYTES + 1)
    with pytest.raises(ImageError, match="strip"):
        store.find_image("vm1", RELEASE, make_vermagic(), "send_signal")


@given(st.data())
def test_modinfo_of_damaged_files_is_an_error(data: st.DataObject) -> None:
    image = bytearray(make_image("x"))
    for _ in range(data.draw(st.integers(0, 8))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(image)))
    try:
        read_modinfo(bytes(image[:cut]))
    except ModinfoError:
        pass


def test_modinfo_is_read() -> None:
    assert read_modinfo(make_image("x"))["license"] == "GPL"


def test_a_build_that_fails_shows_why(tmp_path: Path) -> None:
    source = tmp_path / "probe_modules"
    source.mkdir()
    (source / "Makefile").write_text("all:\n\t@echo no compiler; exit 1\n")
    with pytest.raises(ImageError, match="no compiler"):
        images.build_images(tmp_path, ImageStore(tmp_path), source=tmp_path)


def test_a_build_goes_into_the_store(tmp_path: Path) -> None:
    headers, source = tmp_path / "headers", tmp_path / "probe_modules"
    (headers / "include/generated").mkdir(parents=True)
    (headers / "include/generated/utsrelease.h").write_text('#define UTS_RELEASE "6.6-x"\n')
    built = source / "build/6.6-x"
    built.mkdir(parents=True)
    (built / "send_signal.ko").write_bytes(make_image("send_signal", "6.6-x SMP"))
    (built / "vesper.ko").write_bytes(make_image("vesper", "6.6-x SMP"))
    (source / "Makefile").write_text("all:\n\t@test -d $(KDIR)\n")
    store = ImageStore(tmp_path / "store")
    done = images.build_images(headers, store, source=tmp_path)
    assert [image.name for image in done.images] == ["send_signal"]
    assert done.failures == {}
    assert store.find_image("vm1", "6.6-x", "6.6-x SMP", "send_signal").data


def test_missing_headers_are_named() -> None:
    with pytest.raises(ImageError, match=r"linux-headers-0\.0-none"):
        images.find_headers("0.0-none")


# -- who could have changed it ------------------------------------------------------


def _foreign(path: Path) -> None:
    os.chown(path, 65534, 65534)


def _for_all(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def _for_a_group(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o020)


def _as_in_tmp(path: Path) -> None:
    path.chmod(0o1777)


@pytest.mark.parametrize(
    ("change", "which", "remedy"),
    [
        (_foreign, f"store/{RELEASE}/send_signal.ko", "chown root:"),
        (_foreign, f"store/{RELEASE}", "chown root:"),
        (_foreign, "store", "chown root:"),
        (_foreign, ".", "chown root:"),
        (_for_all, f"store/{RELEASE}/send_signal.ko", "chmod go-w"),
        (_for_all, f"store/{RELEASE}", "chmod go-w"),
        (_for_a_group, "store", "chmod go-w"),
        (_for_a_group, ".", "chmod go-w"),
        (_as_in_tmp, f"store/{RELEASE}", "chmod go-w"),
    ],
)
def test_what_others_could_have_changed_is_not_loaded(
    tmp_path: Path, change: Callable[[Path], None], which: str, remedy: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    make_store(tmp_path / "store")
    store, changed = ImageStore(tmp_path / "store"), (tmp_path / which).resolve()
    assert store.find_image("vm1", RELEASE, make_vermagic(), "send_signal")
    change(changed)
    with pytest.raises(ImageError, match=f"^vm1: .*: {remedy}") as error:
        store.find_image("vm1", RELEASE, make_vermagic(), "send_signal")
    # Its advice is complete.
    advice = str(error.value).rpartition(": ch")[2]
    assert advice.endswith(f" {changed}")
    subprocess.run(f"ch{advice}", shell=True, check=True)
    assert store.find_image("vm1", RELEASE, make_vermagic(), "send_signal")


def test_what_is_roots_may_be_below_what_is_like_tmp(tmp_path: Path) -> None:
    """There nobody but root can rename or delete it."""
    tmp_path.chmod(0o1777)
    make_store(tmp_path / "store")
    assert ImageStore(tmp_path / "store").find_image("vm1", RELEASE, make_vermagic(), "send_signal")


def test_a_link_is_worth_what_it_leads_to(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    make_store(tmp_path / "disk" / "store")
    (tmp_path / "store").symlink_to("disk/store")
    store = ImageStore(tmp_path / "store")
    assert store.find_image("vm1", RELEASE, make_vermagic(), "send_signal")
    _foreign(tmp_path / "disk")
    with pytest.raises(ImageError, match="disk belongs to user 65534"):
        store.find_image("vm1", RELEASE, make_vermagic(), "send_signal")


def test_nothing_is_put_in_place_of_what_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed between the look at a directory and the use of what is in it."""
    make_store(tmp_path / "store")
    make_store(tmp_path / "evil")
    (tmp_path / "evil" / RELEASE / "send_signal.ko").write_bytes(make_image("evil"))
    look, looks = secure_open._check_owner, []

    def exchange(path: Path, status: os.stat_result, *, last: bool) -> None:
        look(path, status, last=last)
        looks.append(path)
        if path == tmp_path / "store":
            path.rename(tmp_path / "before")
            (tmp_path / "evil").rename(path)

    monkeypatch.setattr(secure_open, "_check_owner", exchange)
    found = ImageStore(tmp_path / "store").find_image(
        "vm1", RELEASE, make_vermagic(), "send_signal"
    )
    assert found.data == make_image("send_signal")
    assert looks[0] == Path("/")
    assert looks[-1] == tmp_path / "store" / RELEASE / "send_signal.ko"


def test_what_is_built_can_be_loaded_whatever_the_umask(tmp_path: Path) -> None:
    built = tmp_path / "send_signal.ko"
    built.write_bytes(make_image("send_signal"))
    old = os.umask(0o002)
    try:
        images._install_image(built, tmp_path / "lib" / RELEASE)
    finally:
        os.umask(old)
    store = ImageStore(tmp_path / "lib")
    assert store.find_image("vm1", RELEASE, make_vermagic(), "send_signal")
