"""Previews are published as one folder: the old one or the new one, never half of either."""

from __future__ import annotations

import base64
import inspect
import io

import pytest
from kedro.io import DatasetError
from PIL import Image

from ddpm_kedro import files
from ddpm_kedro.datasets import training_results
from ddpm_kedro.datasets.training_results import PreviewFolder
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt


@pytest.fixture(params=["exchange", "two renames"])
def any_system(request, monkeypatch):
    """With the system call that exchanges two names, and without it."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)


def drawn(folder, *images_seen):
    folder.mkdir(exist_ok=True)
    for count in images_seen:
        Image.new("L", (4, 4), count % 256).save(folder / f"preview_{count}.png")
    return folder


@pytest.fixture
def published(tmp_path):
    return PreviewFolder(path=str(tmp_path / "08_reporting" / "sample_previews"))


@pytest.mark.usefixtures("any_system")
def test_publishing_replaces_the_whole_folder(tmp_path, published):
    assert not published.exists()
    published.save(Receipt(drawn(tmp_path / "first", 64, 128, 1024)))
    assert list(published.load()) == [64, 128, 1024]
    published.save(Receipt(drawn(tmp_path / "second", 32)))
    grids = published.load()
    assert list(grids) == [32]
    assert grids[32].getpixel((0, 0)) == 32
    assert [path.name for path in (tmp_path / "08_reporting").iterdir()] == ["sample_previews"]
    assert len(list((tmp_path / "first").iterdir())) == 3


@pytest.mark.usefixtures("any_system")
def test_leftovers_of_a_killed_run_are_cleared(tmp_path, published):
    parent = tmp_path / "08_reporting"
    parent.mkdir()
    drawn(parent / f".aside-{'0' * 32}-sample_previews", 5)
    source = drawn(tmp_path / "source", 7)
    published.save(Receipt(source))
    published.save(Receipt(source))
    assert list(published.load()) == [7]
    copy = parent / "sample_previews" / "preview_7.png"
    assert not copy.samefile(source / "preview_7.png")  # altered, it alters nothing of training's
    assert [path.name for path in parent.iterdir()] == ["sample_previews"]


@pytest.mark.usefixtures("any_system")
def test_a_failure_leaves_the_old_folder(tmp_path, published, monkeypatch):
    published.save(Receipt(drawn(tmp_path / "first", 1)))

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_results.shutil, "copyfile", full)
    with pytest.raises(DatasetError, match="No space left"):
        published.save(Receipt(drawn(tmp_path / "second", 2)))
    assert list(published.load()) == [1]
    assert len(list((tmp_path / "08_reporting").iterdir())) == 1


def test_a_file_in_the_way_is_the_users_to_move(tmp_path):
    (tmp_path / "target").write_text("mine")
    with pytest.raises(DatasetError, match="a file is in the way") as refused:
        PreviewFolder(path=str(tmp_path / "target")).save(Receipt(drawn(tmp_path / "source", 1)))
    assert isinstance(refused.value.__cause__, InputError)
    assert (tmp_path / "target").read_text() == "mine"


def test_what_is_not_a_finished_picture_is_not_published(tmp_path, published):
    source = drawn(tmp_path / "source", 1)
    (source / ".preview_2.png.x.tmp").write_bytes(b"half")
    published.save(Receipt(source))
    assert [path.name for path in (tmp_path / "08_reporting" / "sample_previews").iterdir()] == [
        "preview_1.png"
    ]


def test_no_folder_is_no_grids(published):
    assert published.load() == {}


def test_the_preview_is_the_newest_grid(tmp_path, published):
    assert published.preview() == ""
    published.save(Receipt(drawn(tmp_path / "source", 9, 10)))  # by number, not by name
    with Image.open(io.BytesIO(base64.b64decode(published.preview()))) as grid:
        assert grid.getpixel((0, 0)) == 10
    assert inspect.signature(published.preview).return_annotation == "ImagePreview"
