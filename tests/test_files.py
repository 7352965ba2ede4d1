"""A file is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import errno
import os

import pytest

from ddpm_kedro.files import atomic_write, publish, sha256_of


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


def test_sha256(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c14")
