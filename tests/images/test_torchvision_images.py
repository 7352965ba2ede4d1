"""torchvision's datasets by name, on fake files and without a network."""

from __future__ import annotations

import gzip
import pickle
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_kedro.errors import InputError
from ddpm_kedro.images import TorchvisionImages
from ddpm_kedro.images.idx import read_idx


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in a test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content += array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _write_mnist(folder: Path, suffix: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    splits = {}
    for split, prefix, number in (("train", "train", 6), ("test", "t10k", 4)):
        images = random.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        labels = np.arange(number) % 10
        _write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        _write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
        splits[split] = (images, labels)
    return splits


def _read(source: TorchvisionImages, split: str) -> tuple[np.ndarray, list[int | None]]:
    pairs = [image.load() for image in source.read(split)]
    return np.stack([np.asarray(pixels) for pixels, _ in pairs]), [label for _, label in pairs]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_used_in_place(tmp_path: Path, suffix: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    splits = _write_mnist(elsewhere, suffix)
    source = TorchvisionImages("FashionMNIST", tmp_path / "raw", idx_folders=[str(elsewhere)])
    assert {split: info.num_images for split, info in source.splits().items()} == {
        "train": 6,
        "test": 4,
    }
    assert source.classes is not None
    assert source.classes[:2] == ("T-shirt/top", "Trouser")
    for split, (images, labels) in splits.items():
        pixels, found = _read(source, split)
        np.testing.assert_array_equal(pixels, images)
        assert found == labels.tolist()
    assert not (tmp_path / "raw").exists()


def test_torchvisions_own_folder_is_used_in_place(tmp_path: Path) -> None:
    splits = _write_mnist(tmp_path / "MNIST" / "raw")
    source = TorchvisionImages("MNIST", tmp_path)
    pixels, _ = _read(source, "test")
    np.testing.assert_array_equal(pixels, splits["test"][0])


def test_facts_follow_the_images_and_not_their_place(tmp_path: Path) -> None:
    _write_mnist(tmp_path / "a", ".gz")
    _write_mnist(tmp_path / "b")
    facts = [
        TorchvisionImages("MNIST", tmp_path, idx_folders=[str(tmp_path / name)]).facts()
        for name in "ab"
    ]
    assert facts[0] == facts[1]
    _write_idx(tmp_path / "b" / "train-images-idx3-ubyte", np.zeros((6, 28, 28)))
    changed = TorchvisionImages("MNIST", tmp_path, idx_folders=[str(tmp_path / "b")])
    assert changed.facts() != facts[0]


@pytest.mark.parametrize("position", [1, 9_999, -1])
def test_facts_see_every_pixel_and_label(tmp_path: Path, position: int) -> None:
    images = tmp_path / "train-images-idx3-ubyte"
    labels = tmp_path / "train-labels-idx1-ubyte"
    _write_mnist(tmp_path)
    _write_idx(images, np.zeros((500, 28, 28)))
    _write_idx(labels, np.zeros(500))

    def facts() -> dict:
        return TorchvisionImages("MNIST", tmp_path, idx_folders=[str(tmp_path)]).facts()

    before, pixels, digits = facts(), np.zeros((500, 28, 28)), np.zeros(500)
    pixels.reshape(-1)[position], digits[position % 500] = 1, 1
    _write_idx(images, pixels)
    other_pixels = facts()
    _write_idx(images, np.zeros((500, 28, 28)))
    assert facts() == before
    _write_idx(labels, digits)
    assert len({str(each) for each in (before, other_pixels, facts())}) == 3


def test_facts_of_a_set_in_files_are_its_files(tmp_path: Path) -> None:
    def write(root: Path, level: int) -> Path:
        for name in ("Forest", "River"):
            folder = root / "eurosat" / "2750" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 2), (level,) * 3).save(folder / "1.bmp")
        return root

    first, same = write(tmp_path / "a", 1), write(tmp_path / "b", 1)
    before = TorchvisionImages("EuroSAT", first).facts()
    assert before["files"] == 2
    assert TorchvisionImages("EuroSAT", same).facts() == before
    assert TorchvisionImages("EuroSAT", write(first, 2)).facts() != before


def test_split_argument_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    (tmp_path / "svhn").mkdir()
    for split, number in (("train", 3), ("test", 2)):
        images = np.full((32, 32, 3, number), 7, np.uint8)
        labels = np.full((number, 1), 10)
        savemat(tmp_path / "svhn" / f"{split}_32x32.mat", {"X": images, "y": labels})
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    source = TorchvisionImages("SVHN", tmp_path / "svhn")
    assert {split: info.num_images for split, info in source.splits().items()} == {
        "train": 3,
        "test": 2,
    }
    pixels, labels = _read(source, "train")
    assert pixels.shape == (3, 32, 32, 3)
    assert labels == [0, 0, 0]  # SVHN writes the digit 0 as 10
    only = TorchvisionImages("SVHN", tmp_path / "svhn", train={"split": "test"})
    assert only.splits()["train"].num_images == 2
    wrong = TorchvisionImages("SVHN", tmp_path / "svhn", train={"split": "nowhere"})
    with pytest.raises(InputError, match="Unknown value 'nowhere'"):
        wrong.splits()


def test_train_argument_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    for level, name in enumerate(names):
        batch = {"data": np.full((2, 3072), level, np.uint8), "labels": [level, 0]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    source = TorchvisionImages("CIFAR10", tmp_path)
    assert source.classes == tuple("abcdefghij")
    pixels, labels = _read(source, "test")
    assert pixels.shape == (2, 32, 32, 3)
    assert (pixels == 5).all()
    assert labels == [5, 0]
    assert source.splits()["train"].num_images == 10


def test_a_set_without_splits_has_one(tmp_path: Path) -> None:
    arguments = {"size": 5, "image_size": [3, 4, 6], "num_classes": 3}
    source = TorchvisionImages("FakeData", tmp_path, arguments)
    assert {split: info.num_images for split, info in source.splits().items()} == {"train": 5}
    assert _read(source, "train")[0].shape == (5, 4, 6, 3)


def test_what_cannot_be_downloaded_says_where_it_may_lie(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MNIST is not below .*raw and cannot be downloaded"):
        TorchvisionImages("MNIST", tmp_path / "raw").splits()


def test_wrong_names_and_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dataset cifar10; did you mean CIFAR10"):
        TorchvisionImages("cifar10", tmp_path).splits()
    with pytest.raises(InputError, match="no dataset Nothing"):
        TorchvisionImages("Nothing", tmp_path).splits()
    with pytest.raises(InputError, match="sise"):
        TorchvisionImages("FakeData", tmp_path, {"sise": 5}).splits()


def test_broken_idx_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content, message in (
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "not an IDX file of bytes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", "do not hold an array"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_idx(path)
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(bytes(1000))[:-12])
    with pytest.raises(InputError, match=r"a\.gz"):
        read_idx(packed)


def test_numbers_of_images_and_labels_must_agree(tmp_path: Path) -> None:
    _write_mnist(tmp_path)
    _write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(5))
    source = TorchvisionImages("MNIST", tmp_path / "raw", idx_folders=[str(tmp_path)])
    with pytest.raises(InputError, match=r"6 images and .* 5 labels"):
        source.splits()
