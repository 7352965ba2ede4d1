"""Equal content, equal hash: whatever the names, the times and the memory say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddpm_kedro import content
from ddpm_kedro.content import content_hash, remembering
from ddpm_kedro.files import sha256_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    (root / "below").mkdir(parents=True)
    (root / "a").write_bytes(b"first")
    (root / "below" / "b").write_bytes(b"second")
    return root


@pytest.fixture
def all_old(monkeypatch):
    """Files are old enough to be remembered as soon as they are written."""
    monkeypatch.setattr(content, "_YOUNG_SECONDS", -1e6)


def copy(source: Path, target: Path) -> Path:
    for path in sorted(source.rglob("*"), reverse=True):  # another order on the disk
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())
    return target


def test_a_file_is_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash(tmp_path / "a") == known == sha256_of(tmp_path / "a")


def test_equal_folders_are_equal_wherever_and_whenever(folder, tmp_path):
    other = copy(folder, tmp_path / "other")
    os.utime(other / "a", (1, 1))
    (other / ".hidden").write_bytes(b"x")
    (other / ".folder").mkdir()
    (other / ".folder" / "c").write_bytes(b"x")
    (other / "empty").mkdir()
    assert content_hash(other) == content_hash(folder)


def test_every_change_of_a_folder_is_another_content(folder):
    seen = {content_hash(folder)}
    (folder / "a").write_bytes(b"firsT")
    seen.add(content_hash(folder))
    (folder / "a").rename(folder / "c")
    seen.add(content_hash(folder))
    (folder / "c").rename(folder / "below" / "c")
    seen.add(content_hash(folder))
    (folder / "new").write_bytes(b"")
    seen.add(content_hash(folder))
    (folder / "new").unlink()
    (folder / "below" / "b").write_bytes(b"second\n")
    seen.add(content_hash(folder))
    assert len(seen) == 6


def test_links_count_as_what_they_lead_to_and_may_lead_in_circles(folder, tmp_path):
    plain = content_hash(copy(folder, tmp_path / "other"))
    (folder / "below" / "b").rename(tmp_path / "b")
    (folder / "below" / "b").symlink_to(tmp_path / "b")
    (folder / "below" / "up").symlink_to(folder)
    assert content_hash(folder) == plain


def test_what_is_not_there_is_an_os_error(folder):
    with pytest.raises(FileNotFoundError):
        content_hash(folder / "missing")
    os.mkfifo(folder / "pipe")
    with pytest.raises(OSError, match="pipe is neither a file nor a folder"):
        content_hash(folder)


def planted(memory: Path, path: Path) -> None:
    """Let a memory tell a wrong hash, so that its use is seen."""
    known = json.loads(memory.read_text())
    known[str(path)][4] = "planted"
    memory.write_text(json.dumps(known))


def test_a_hash_is_remembered_as_long_as_the_file_is_the_same(folder, tmp_path, all_old):
    memory, path = tmp_path / ".hashes.json", folder / "a"
    with remembering(memory):
        right = content_hash(path)
    planted(memory, path)
    with remembering(memory):
        assert content_hash(path) == "planted"
    assert content_hash(path) == right  # outside nothing is remembered
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"FIRST")  # as long as before
    os.utime(path, ns=times)
    with remembering(memory):  # the ctime tells
        assert content_hash(path) == sha256_of(path)
    planted(memory, path)
    (tmp_path / "new").write_bytes(b"FIRST")
    os.utime(tmp_path / "new", ns=times)
    os.replace(tmp_path / "new", path)
    with remembering(memory):
        assert content_hash(path) == sha256_of(path)


@pytest.mark.parametrize("number", range(4))
def test_size_both_times_and_inode_must_be_the_same(folder, tmp_path, all_old, number):
    memory, path = tmp_path / ".hashes.json", folder / "a"
    with remembering(memory):
        content_hash(path)
    planted(memory, path)
    known = json.loads(memory.read_text())
    known[str(path)][number] += 1
    memory.write_text(json.dumps(known))
    with remembering(memory):
        assert content_hash(path) == sha256_of(path)


def test_a_young_file_is_not_remembered(folder, tmp_path):
    with remembering(tmp_path / ".hashes.json"):
        content_hash(folder)
    assert not (tmp_path / ".hashes.json").exists()
    os.utime(folder / "a", (1, 1))  # an old mtime is easily had, so the ctime decides
    with remembering(tmp_path / ".hashes.json"):
        content_hash(folder)
    assert not (tmp_path / ".hashes.json").exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    folder, tmp_path, all_old, monkeypatch
):
    def slow(path):
        found = sha256_of(path)
        Path(path).write_bytes(b"changed meanwhile")
        return found

    monkeypatch.setattr(content, "sha256_of", slow)
    with remembering(tmp_path / ".hashes.json"):
        content_hash(folder / "a")
    assert not (tmp_path / ".hashes.json").exists()


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b"7", b'{"/a": 3}', b'{"/a": []}', b"\xff"])
def test_a_torn_memory_is_only_slower(folder, tmp_path, all_old, torn):
    memory = tmp_path / ".hashes.json"
    memory.write_bytes(torn)
    with remembering(memory):
        assert content_hash(folder / "a") == sha256_of(folder / "a")
    planted(memory, folder / "a")  # it was written anew


def test_a_memory_that_cannot_be_written_is_only_slower(folder, tmp_path, all_old):
    (tmp_path / "file").write_bytes(b"")
    for memory in (tmp_path / "file" / "memory", Path("/proc/memory")):
        with remembering(memory):
            assert content_hash(folder / "a") == sha256_of(folder / "a")


def test_open_memories_help_each_other(folder, tmp_path, all_old):
    with remembering(tmp_path / "outer"):
        content_hash(folder / "a")
        with remembering(tmp_path / "inner"):
            content_hash(folder / "a")
    planted(tmp_path / "inner", folder / "a")
    with remembering(tmp_path / "inner"), remembering(tmp_path / "third"):
        assert content_hash(folder / "a") == "planted"
    assert "planted" in (tmp_path / "third").read_text()


def test_files_that_are_gone_are_forgotten(folder, tmp_path, all_old):
    memory = tmp_path / ".hashes.json"
    with remembering(memory):
        content_hash(folder)
    (folder / "a").unlink()
    (folder / "new").write_bytes(b"new")
    with remembering(memory):
        content_hash(folder)
    assert set(json.loads(memory.read_text())) == {
        str(folder / "new"),
        str(folder / "below" / "b"),
    }


def test_two_processes_write_one_memory(tmp_path):
    program = """
import sys
from pathlib import Path
from ddpm_kedro import content
content._YOUNG_SECONDS = -1e6
for number in range(30):
    path = Path(sys.argv[1]) / f"{sys.argv[2]}{number}"
    path.write_text(path.name)
    with content.remembering(Path(sys.argv[1]) / "memory"):
        content.content_hash(path)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(content.__file__).parents[1])}
    processes = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path, name], env=environment)
        for name in "ab"
    ]
    while any(process.poll() is None for process in processes):
        if (tmp_path / "memory").exists():
            json.loads((tmp_path / "memory").read_text())  # whole at every moment
        time.sleep(0.005)
    assert [process.wait() for process in processes] == [0, 0]
    known = json.loads((tmp_path / "memory").read_text())
    assert known
    assert all(entry[4] == sha256_of(path) for path, entry in known.items())
