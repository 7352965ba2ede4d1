"""An image set comes back from its file as it was, and a damaged file is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ddpm_kedro.errors import InputError
from ddpm_kedro.images.imageset import ImageSet, image_set_writer

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 3, 5, 3), dtype=np.uint8)


LABELS = np.array([0, 1, 2, 0, 1, 2, 0])


def test_file_gives_back_what_was_saved(tmp_path: Path, images: np.ndarray) -> None:
    saved = ImageSet(images, LABELS, CLASSES)
    saved.save(tmp_path / "set.safetensors")
    opened = ImageSet.open(tmp_path / "set.safetensors")
    assert isinstance(opened.images, np.memmap)
    assert not opened.images.flags.writeable
    np.testing.assert_array_equal(opened.images, images)
    np.testing.assert_array_equal(opened.labels, LABELS)
    assert opened.classes == CLASSES
    assert opened.content_hash == saved.content_hash
    assert len(opened) == 7
    assert opened.image_shape == (3, 5, 3)


def test_file_is_a_safetensors_file(tmp_path: Path, images: np.ndarray) -> None:
    ImageSet(images, LABELS, CLASSES).save(tmp_path / "set.safetensors")
    tensors = load_file(tmp_path / "set.safetensors")
    np.testing.assert_array_equal(tensors["images"], images)
    np.testing.assert_array_equal(tensors["labels"], LABELS)


def test_set_without_labels(tmp_path: Path, images: np.ndarray) -> None:
    ImageSet(images).save(tmp_path / "set.safetensors")
    opened = ImageSet.open(tmp_path / "set.safetensors")
    assert opened.labels is None
    assert opened.classes == ()


def test_hash_tells_pixels_labels_shape_and_names_apart(images: np.ndarray) -> None:
    other_pixels = images.copy()
    other_pixels[3, 1, 2, 0] ^= 1
    sets = [
        ImageSet(images, LABELS, CLASSES),
        ImageSet(other_pixels, LABELS, CLASSES),
        ImageSet(images, LABELS[::-1].copy(), CLASSES),
        ImageSet(images.reshape(7, 3, 3, 5), LABELS, CLASSES),
        ImageSet(images, LABELS, ("ant", "bee", "cow")),
        ImageSet(images),
    ]
    assert len({each.content_hash for each in sets}) == len(sets)
    assert ImageSet(images.copy(), LABELS, CLASSES).content_hash == sets[0].content_hash


def test_batches_of_any_size_write_the_same_file(tmp_path: Path, images: np.ndarray) -> None:
    for name, sizes in (("a", [7]), ("b", [1, 4, 2])):
        with image_set_writer(tmp_path / name, (3, 5, 3), CLASSES) as writer:
            start = 0
            for size in sizes:
                writer.append(images[start : start + size])
                start += size
            writer.finish(LABELS, CLASSES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_class_names_may_be_known_only_at_the_end(tmp_path: Path, images: np.ndarray) -> None:
    with image_set_writer(tmp_path / "set", (3, 5, 3), None) as writer:
        writer.append(images)
        writer.finish(LABELS, CLASSES)
    assert ImageSet.open(tmp_path / "set").classes == CLASSES


def test_many_long_class_names_fit(tmp_path: Path, images: np.ndarray) -> None:
    classes = tuple(f'"quoted" \u00e9 {number}' * 20 for number in range(1000))
    ImageSet(images, LABELS, classes).save(tmp_path / "set")
    assert ImageSet.open(tmp_path / "set").classes == classes


def test_interrupted_writing_leaves_nothing(tmp_path: Path, images: np.ndarray) -> None:
    def write() -> None:
        with image_set_writer(tmp_path / "set", (3, 5, 3), CLASSES) as writer:
            writer.append(images)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_unfinished_file_is_not_published(tmp_path: Path, images: np.ndarray) -> None:
    with (
        pytest.raises(RuntimeError, match="not finished"),
        image_set_writer(tmp_path / "set", (3, 5, 3), CLASSES) as writer,
    ):
        writer.append(images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_cut_file_is_refused(tmp_path: Path, images: np.ndarray, kept: int) -> None:
    path = tmp_path / "set"
    ImageSet(images, LABELS, CLASSES).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="not a prepared image set"):
        ImageSet.open(path)


def test_other_file_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"images": np.zeros(3, np.uint8)}, tmp_path / "other")
    with pytest.raises(InputError, match="written by something else"):
        ImageSet.open(tmp_path / "other")


def test_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--pipelines data_preparation"):
        ImageSet.open(tmp_path / "none")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (LABELS[:3], CLASSES),
        (LABELS.astype(np.int32), CLASSES),
        (LABELS, CLASSES[:2]),
        (LABELS - 1, CLASSES),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
) -> None:
    with pytest.raises(InputError, match="labels of"):
        ImageSet(images, labels, classes)


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="uint8"):
        ImageSet(np.zeros((2, 3, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"\(N, C, H, W\)"):
        ImageSet(np.zeros((2, 4, 4), np.uint8))
