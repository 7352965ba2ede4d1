"""A split in the catalog: published from a receipt, loaded as a memory map, shown as a grid."""

from __future__ import annotations

import base64
import inspect
import io
from pathlib import Path

import numpy as np
import pytest
from kedro.io import DatasetError
from PIL import Image

from ddpm_kedro.datasets.arrays import ImageSetFile
from ddpm_kedro.errors import InputError
from ddpm_kedro.files import Receipt
from ddpm_kedro.images.imageset import ImageSet


@pytest.fixture
def prepared(tmp_path: Path) -> Receipt:
    images = np.random.default_rng(0).integers(0, 256, (100, 3, 8, 8), dtype=np.uint8)
    path = tmp_path / "store" / "train.safetensors"
    ImageSet(images, np.arange(100) % 2, ("a", "b")).save(path)
    return Receipt(path)


def test_receipt_is_published_and_loads_as_images(tmp_path: Path, prepared: Receipt) -> None:
    dataset = ImageSetFile(filepath=str(tmp_path / "05" / "train.safetensors"))
    assert not dataset.exists()
    dataset.save(prepared)
    assert dataset.exists()
    images = dataset.load()
    assert isinstance(images.images, np.memmap)
    assert images.content_hash == ImageSet.open(prepared.path).content_hash
    dataset.save(prepared)  # again, as when the work was found already done
    prepared.path.unlink()
    assert len(dataset.load()) == 100


def test_a_receipt_may_say_that_its_file_is_not_finished(tmp_path: Path, prepared: Receipt) -> None:
    dataset = ImageSetFile(filepath=str(tmp_path / "train.safetensors"))
    said = []
    for finished in (False, True):
        dataset.save(Receipt(prepared.path, {"finished": finished}))
        said.append(dataset.is_finished)
    assert said == [False, True]


def test_published_images_are_replaced_not_changed(tmp_path: Path, prepared: Receipt) -> None:
    dataset = ImageSetFile(filepath=str(tmp_path / "train.safetensors"))
    dataset.save(prepared)
    before = dataset.load()
    first = np.array(before.images[0])
    ImageSet(np.zeros((2, 1, 4, 4), np.uint8)).save(tmp_path / "other")
    dataset.save(Receipt(tmp_path / "other"))
    assert dataset.load().image_shape == (1, 4, 4)
    np.testing.assert_array_equal(before.images[0], first)  # an open map keeps what it maps


def test_preview_is_a_picture(tmp_path: Path, prepared: Receipt) -> None:
    dataset = ImageSetFile(filepath=str(tmp_path / "train.safetensors"))
    assert dataset.preview() == ""
    dataset.save(prepared)
    picture = Image.open(io.BytesIO(base64.b64decode(dataset.preview(max_side=300))))
    assert picture.mode == "RGB"
    assert max(picture.size) == 300
    assert inspect.signature(ImageSetFile.preview).return_annotation == "ImagePreview"


def test_missing_and_unwritable_files_are_one_line(tmp_path: Path, prepared: Receipt) -> None:
    with pytest.raises((InputError, DatasetError), match="--pipelines data_preparation"):
        ImageSetFile(filepath=str(tmp_path / "none")).load()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises((InputError, DatasetError), match="set data_root"):
        ImageSetFile(filepath=str(tmp_path / "file" / "train")).save(prepared)
