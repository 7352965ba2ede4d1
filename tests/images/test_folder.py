"""Folders and archives of images: which images, which labels, which splits."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_kedro.errors import InputError
from ddpm_kedro.images import ImageFolder, source
from ddpm_kedro.progress import Progress


def _fill(root: Path, *names: str) -> Path:
    """Small pictures; the grey level of the i-th is i."""
    for level, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2), level).save(path, "PNG")
    return root


def _read(source: ImageFolder, split: str = "train") -> dict[str, tuple[int, int | None]]:
    """For each image its grey level and its label, in the order of reading."""
    found = {}
    for image in source.read(split):
        pixels, label = image.load()
        found[image.name] = (int(np.asarray(pixels)[0, 0]), label)
    return found


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    source = ImageFolder(_fill(tmp_path / "photos", "b.png", "a.jpg", "c.WEBP"))
    assert _read(source) == {"a.jpg": (1, None), "b.png": (0, None), "c.WEBP": (2, None)}
    assert source.classes == ()
    assert {split: info.num_images for split, info in source.splits().items()} == {"train": 3}
    assert source.name == "photos"


def test_other_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    _fill(tmp_path, "a.png", ".hidden.png", ".cache/b.png", "__MACOSX/a.png", "deep/er/c.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert list(_read(ImageFolder(tmp_path))) == ["a.png", "deep/er/c.png"]


def test_subfolders_are_classes(tmp_path: Path) -> None:
    _fill(tmp_path, "dog/1.png", "cat/1.png", "cat/more/2.png")
    source = ImageFolder(tmp_path)
    assert source.classes == ("cat", "dog")
    assert _read(source) == {"cat/1.png": (1, 0), "cat/more/2.png": (2, 0), "dog/1.png": (0, 1)}


def test_class_folders_can_be_ignored(tmp_path: Path) -> None:
    source = ImageFolder(_fill(tmp_path, "dog/1.png", "cat/1.png"), class_folders=False)
    assert source.classes == ()
    assert {label for _, label in _read(source).values()} == {None}


def test_one_folder_in_a_folder_is_no_class(tmp_path: Path) -> None:
    assert ImageFolder(_fill(tmp_path / "a", "all/1.png", "all/2.png")).classes == ()
    assert ImageFolder(_fill(tmp_path / "b", "all/cat/1.png", "all/dog/2.png")).classes == (
        "cat",
        "dog",
    )


def test_loose_images_beside_class_folders(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(tmp_path, "cat/1.png", "dog/2.png", "loose.png")
    with caplog.at_level(logging.WARNING):
        assert ImageFolder(tmp_path).classes == ()
    assert "loose.png" in caplog.text
    with pytest.raises(InputError, match=r"loose\.png, lie in no class folder"):
        _ = ImageFolder(tmp_path, class_folders=True).classes


def test_split_folders(tmp_path: Path) -> None:
    _fill(tmp_path, "Train/cat/1.png", "Train/dog/2.png", "test/dog/3.png", "val/cat/4.png")
    source = ImageFolder(tmp_path)
    assert list(source.splits()) == ["train", "test"]
    assert source.classes == ("cat", "dog")
    assert _read(source) == {"Train/cat/1.png": (0, 0), "Train/dog/2.png": (1, 1)}
    assert _read(source, "test") == {"test/dog/3.png": (2, 1)}


def test_validation_folder_stands_in_for_a_test_folder(tmp_path: Path) -> None:
    source = ImageFolder(_fill(tmp_path, "train/1.png", "valid/2.png"))
    assert _read(source, "test") == {"valid/2.png": (1, None)}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    source = ImageFolder(_fill(tmp_path, "bus/1.png", "train/2.png"))
    assert list(source.splits()) == ["train"]
    assert source.classes == ("bus", "train")


def test_train_folder_alone_has_no_test_split(tmp_path: Path) -> None:
    source = ImageFolder(_fill(tmp_path, "train/cat/1.png", "train/dog/2.png"))
    assert list(source.splits()) == ["train"]
    assert source.classes == ("cat", "dog")


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_archive_gives_what_its_folder_gives(tmp_path: Path, kind: str) -> None:
    _fill(tmp_path / "in" / "pets", "dog/1.png", "cat/1.png", "cat/2.png")
    archive = shutil.make_archive(str(tmp_path / "pets"), kind, tmp_path / "in", "pets")
    packed, unpacked = ImageFolder(archive), ImageFolder(tmp_path / "in" / "pets")
    assert packed.classes == unpacked.classes == ("cat", "dog")
    assert packed.splits() == unpacked.splits()
    expected = {f"pets/{name}": found for name, found in _read(unpacked).items()}
    assert _read(packed) == expected


def test_broken_member_of_a_zip_fails_alone(tmp_path: Path) -> None:
    _fill(tmp_path / "in", "a.png", "b.png")
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tmp_path / "in" / "a.png", "a.png")
        file.write(tmp_path / "in" / "b.png", "b.png")
    content = bytearray(archive.read_bytes())
    content[60] ^= 255  # within the pixels of a.png
    archive.write_bytes(content)
    first, second = ImageFolder(archive).read("train")
    with pytest.raises(zipfile.BadZipFile):
        first.load()
    assert second.load()[0].size == (3, 2)


def test_facts_are_the_content_wherever_and_whenever_it_is(tmp_path: Path) -> None:
    _fill(tmp_path / "first", "cat/a.png", "dog/b.png")
    before = ImageFolder(tmp_path / "first").facts()
    copied = shutil.copytree(tmp_path / "first", tmp_path / "copied")
    os.utime(copied / "cat" / "a.png", (1, 1))
    (copied / "notes.txt").write_text("no image")
    assert ImageFolder(copied).facts() == before
    assert ImageFolder(copied, class_folders=False).facts() != before
    (copied / "cat" / "a.png").rename(copied / "dog" / "a.png")
    assert ImageFolder(copied).facts() != before


@pytest.mark.parametrize("archive", [False, True])
def test_facts_see_a_changed_byte_behind_restored_times(tmp_path: Path, archive: bool) -> None:
    folder = _fill(tmp_path / "photos", "a.png", "b.png")
    path = Path(shutil.make_archive(str(tmp_path / "a"), "tar", folder)) if archive else folder
    altered = path if archive else path / "b.png"
    before, times = ImageFolder(path).facts(), altered.stat()
    content = bytearray(altered.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    os.utime(altered, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert ImageFolder(path).facts() != before
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    assert ImageFolder(path).facts() == before


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    _fill(tmp_path / "elsewhere", "1.png")
    _fill(tmp_path / "photos", "cat/2.png")
    (tmp_path / "photos" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "cat" / "round").symlink_to(tmp_path / "photos")
    source = ImageFolder(tmp_path / "photos")
    assert list(_read(source)) == ["cat/2.png", "dog/1.png"]


def test_link_to_nowhere_fails_alone(tmp_path: Path) -> None:
    _fill(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    source = ImageFolder(tmp_path)
    source.facts()
    good, dangling = source.read("train")
    good.load()
    with pytest.raises(FileNotFoundError):
        dangling.load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    _fill(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / "dog").chmod(0)
    try:
        with pytest.raises(InputError, match=r"not readable .*dog"):
            ImageFolder(tmp_path).splits()
    finally:
        (tmp_path / "dog").chmod(0o755)


def test_wrong_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image_path is not set"):
        ImageFolder(None).splits()
    with pytest.raises(InputError, match="none: No such file"):
        ImageFolder(tmp_path / "none").splits()
    (tmp_path / "words.txt").write_text("no images")
    with pytest.raises(InputError, match="no images found among its 1 files"):
        ImageFolder(tmp_path).splits()
    with pytest.raises(InputError, match="neither a folder nor a zip or tar"):
        ImageFolder(tmp_path / "words.txt").splits()


def test_cut_archive_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8).tobytes()
    (tmp_path / "a.png").write_bytes(noise)
    with tarfile.open(tmp_path / "cut.tar.gz", "w:gz") as file:
        file.add(tmp_path / "a.png", "a.png")
    archive = tmp_path / "cut.tar.gz"
    archive.write_bytes(archive.read_bytes()[:20_000])
    with pytest.raises(InputError, match="archive is broken"):
        ImageFolder(archive).splits()


def test_a_first_look_at_many_bytes_shows_its_progress(tmp_path: Path, monkeypatch) -> None:
    shown = []

    class Shown(Progress):
        def close(self) -> None:
            shown.append((self.silent, round(self.done * 1e6)))

    monkeypatch.setattr(source, "Progress", Shown)
    num_bytes = sum(path.stat().st_size for path in _fill(tmp_path, "a.png", "b.png").iterdir())
    ImageFolder(tmp_path).facts()
    monkeypatch.setattr(source, "_BYTES_A_SECOND", num_bytes - 1)
    ImageFolder(tmp_path).facts()
    assert shown == [(True, num_bytes), (False, num_bytes)]
