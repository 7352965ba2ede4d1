"""A file or a folder is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import errno
import os

import pytest

from ddpm_kedro import files
from ddpm_kedro.files import (
    atomic_folder,
    atomic_write,
    clear_leftovers,
    publish,
    remove,
    sha256_of,
)


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path, "w") as file:
        file.write("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"older")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match="no space"):
        write_half()
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_written_files_follow_the_umask(tmp_path):
    older = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(older)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_the_umask_is_never_flipped(tmp_path, monkeypatch):
    """It belongs to the whole process, in which other threads make files meanwhile."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("os.umask was called"))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"x")


@pytest.mark.parametrize("linkable", [True, False])
def test_publish_replaces_in_one_rename(tmp_path, monkeypatch, linkable):
    if not linkable:

        def refuse(*_: object) -> None:
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "a" / "source", tmp_path / "b" / "target"
    source.parent.mkdir()
    source.write_bytes(b"new")
    target.parent.mkdir()
    target.write_bytes(b"old")
    publish(source, target)
    publish(source, target)  # again: already there
    assert target.read_bytes() == b"new"
    assert source.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["target"]


def test_a_missing_source_leaves_the_target(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "nowhere", target)
    assert target.read_bytes() == b"old"


@pytest.fixture(params=["exchange", "two renames"])
def any_system(request, monkeypatch):
    """With the system call that exchanges two names, and without it."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)


def fill(path, *names):
    with atomic_folder(path) as folder:
        for name in names:
            (folder / name).touch()


@pytest.mark.usefixtures("any_system")
def test_a_folder_appears_when_the_block_ends_and_replaces_the_older_one(tmp_path):
    path = tmp_path / "new" / "folder"
    with atomic_folder(path) as folder:
        (folder / "a").touch()
        assert not path.exists()
    fill(path, "b", "c")
    assert sorted(os.listdir(path)) == ["b", "c"]
    assert os.listdir(path.parent) == ["folder"]


@pytest.mark.usefixtures("any_system")
def test_a_folder_that_fails_leaves_the_older_one_and_nothing_else(tmp_path):
    fill(tmp_path / "folder", "a")

    def fail():
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "b").touch()
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert os.listdir(tmp_path / "folder") == ["a"]
    assert os.listdir(tmp_path) == ["folder"]


def test_the_exchange_leaves_no_moment_without_a_folder(tmp_path, monkeypatch):
    """On Linux no rename touches the published name once it is there."""
    for name in "abc":
        fill(tmp_path / name, name)
    if not files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two names")
    assert os.listdir(tmp_path / "a") == ["b"]
    monkeypatch.setattr(os, "rename", lambda *names: pytest.fail("not exchanged"))
    fill(tmp_path / "c", "d")
    assert os.listdir(tmp_path / "c") == ["d"]


def test_a_swap_that_fails_half_way_is_undone(tmp_path, monkeypatch):
    fill(tmp_path / "target", "a")
    fill(tmp_path / "new", "b")
    monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    rename = os.rename

    def failing(source, target):
        if source == tmp_path / "new":
            raise OSError(errno.EIO, "dying")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="dying"):
        files._replace(tmp_path / "new", tmp_path / "target")
    assert os.listdir(tmp_path / "target") == ["a"]


def test_only_a_folders_own_leftovers_are_cleared_by_writing_it(tmp_path):
    left = f".aside-{'0' * 32}"
    for name in (f"{left}-folder", f"{left}-other-folder", f"{left}-folder2"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "folder", "a")
    assert sorted(os.listdir(tmp_path)) == [f"{left}-folder2", f"{left}-other-folder", "folder"]
    clear_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["folder"]


def test_folders_files_and_links_are_removed(tmp_path):
    fill(tmp_path / "folder", "a")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "file").touch()
    remove(tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    remove(tmp_path / "folder")
    remove(tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_sha256(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c14")
