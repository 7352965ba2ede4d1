"""From sources to splits: order, the hashed test split, facts, refusals, memory."""

from __future__ import annotations

import io
import logging
import os
import shutil
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_kedro.errors import InputError
from ddpm_kedro.images import Digits, ImageFolder
from ddpm_kedro.images.imageset import ImageSet
from ddpm_kedro.images.preparation import prepare
from ddpm_kedro.images.settings import PreparationSettings
from ddpm_kedro.images.source import ImageSource, Pixels, RawImage, SplitInfo
from ddpm_kedro.images.store import ImageStore, PreparedImages

Entry = tuple[Any, int | None]


class Given(ImageSource):
    """A source of what it is given; an exception in place of pixels is raised."""

    name = "given"

    def __init__(
        self,
        train: Sequence[Entry],
        test: Sequence[Entry] | None = None,
        classes: tuple[str, ...] | None = None,
        counted: bool = True,
    ) -> None:
        self.entries: dict[str, Sequence[Entry]] = {"train": train}
        if test is not None:
            self.entries["test"] = test
        self._classes, self.counted = classes, counted

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._classes

    def splits(self) -> Mapping[str, SplitInfo]:
        return {
            split: SplitInfo(len(entries) if self.counted else None)
            for split, entries in self.entries.items()
        }

    def read(self, split: str) -> Iterator[RawImage]:
        for index, entry in enumerate(self.entries[split]):
            yield RawImage(f"{split}[{index}]", lambda entry=entry: _load(entry))

    def facts(self) -> dict[str, Any]:
        return {}


def _load(entry: Entry) -> tuple[Pixels, int | None]:
    if isinstance(entry[0], Exception):
        raise entry[0]
    return entry


def _entries(number: int, shape: tuple[int, ...] = (4, 4), seed: int = 0) -> list[Entry]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (number, *shape), dtype=np.uint8)
    return [(image, index % 3) for index, image in enumerate(images)]


def _settings(**changes: Any) -> PreparationSettings:
    values = {"image_size": None, "channels": None, "max_images": None, "max_unreadable": 0.0}
    return PreparationSettings(**{**values, "test_fraction": 0.3, **changes})


def _prepare(
    source: ImageSource, path: Path, **settings: Any
) -> tuple[ImageSet, ImageSet, dict[str, Any]]:
    prepared: PreparedImages = prepare(source, ImageStore(path), _settings(**settings))
    train, test = ImageSet.open(prepared.train.path), ImageSet.open(prepared.test.path)
    return train, test, prepared.card


def _keys(images: ImageSet) -> set[bytes]:
    return {image.tobytes() for image in images.images}


def test_own_splits_keep_their_order(tmp_path: Path) -> None:
    train, test = _entries(100), _entries(70, seed=1)
    found_train, found_test, card = _prepare(Given(train, test, ("a", "b", "c")), tmp_path)
    for found, entries in ((found_train, train), (found_test, test)):
        np.testing.assert_array_equal(found.images[:, 0], np.stack([e for e, _ in entries]))
        assert found.labels is not None
        assert found.labels.tolist() == [label for _, label in entries]
        assert found.classes == ("a", "b", "c")
    assert card["test_split"] == "of the source"
    assert card["splits"]["train"]["images_per_class"] == {"a": 34, "b": 33, "c": 33}
    assert card["splits"]["test"]["content_hash"] == found_test.content_hash


def test_hashed_split_does_not_depend_on_the_order(tmp_path: Path) -> None:
    entries = _entries(200)
    shuffled = [entries[index] for index in np.random.default_rng(5).permutation(200)]
    train, test, card = _prepare(Given(entries), tmp_path / "a")
    other_train, other_test, _ = _prepare(Given(shuffled), tmp_path / "b")
    assert _keys(train) == _keys(other_train)
    assert _keys(test) == _keys(other_test)
    assert len(train) + len(test) == 200
    assert not _keys(train) & _keys(test)
    assert card["test_split"] == "by a hash of the pixels"


def test_hashed_split_has_about_its_fraction(tmp_path: Path) -> None:
    for fraction in (0.1, 0.5):
        _, test, _ = _prepare(Digits(), tmp_path, test_fraction=fraction)
        spread = (1797 * fraction * (1 - fraction)) ** 0.5
        assert abs(len(test) - 1797 * fraction) < 4 * spread


def test_hashed_split_grows_with_its_fraction_and_with_the_data(tmp_path: Path) -> None:
    entries = _entries(300)
    _, small, _ = _prepare(Given(entries), tmp_path / "a", test_fraction=0.1)
    _, large, _ = _prepare(Given(entries), tmp_path / "b", test_fraction=0.4)
    assert _keys(small) < _keys(large)
    _, fewer, _ = _prepare(Given(entries[:150]), tmp_path / "c", test_fraction=0.4)
    assert _keys(fewer) < _keys(large)


def test_duplicates_land_on_the_same_side(tmp_path: Path) -> None:
    train, test, card = _prepare(Given(_entries(60) + _entries(60) + _entries(30)), tmp_path)
    assert not _keys(train) & _keys(test)
    assert card["duplicates_across_splits"] == 0
    duplicates = [card["splits"][split]["duplicates"] for split in ("train", "test")]
    assert sum(duplicates) == 90
    assert duplicates[0] == len(train) - len(_keys(train))


def test_duplicates_across_given_splits_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, test = _entries(20), _entries(10, seed=1)
    _, _, card = _prepare(Given(train, [*test, train[3], train[3], train[7]]), tmp_path)
    assert card["duplicates_across_splits"] == 2
    assert "2 images of the test split are in the training split too" in caplog.text
    assert card["splits"]["test"]["duplicates"] == 1


def test_card_has_the_moments_of_the_training_split(tmp_path: Path) -> None:
    train, _, card = _prepare(Given(_entries(50, (5, 4, 3)), _entries(9, (5, 4, 3))), tmp_path)
    assert (card["channels"], card["height"], card["width"]) == (3, 5, 4)
    np.testing.assert_allclose(card["channel_mean"], train.images.mean((0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(card["channel_std"], train.images.std((0, 2, 3)), atol=1e-4)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        settings = _settings(test_fraction=0.2)
        paths.append(prepare(Digits(), ImageStore(tmp_path / name), settings).train.path)
    assert paths[0] != paths[1]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_preparation_is_found_again_unless_it_would_differ(tmp_path: Path) -> None:
    def key(source: ImageSource, **settings: Any) -> str:
        return _prepare(source, tmp_path, **settings)[2]["key"]

    own = Given(_entries(9), _entries(9))
    assert key(own, test_fraction=0.2) == key(own, test_fraction=0.3)
    keys = [
        key(Digits()),
        key(Digits(), test_fraction=0.2),
        key(Digits(), image_size=16),
        key(Digits(), channels=3),
        key(Digits(), max_images=100),
        key(own),
    ]
    assert len(set(keys)) == len(keys)
    assert key(Digits()) == keys[0]


def test_chosen_images_are_spaced_evenly(tmp_path: Path) -> None:
    entries = [(np.full((2, 2), index, np.uint8), None) for index in range(100)]
    train, test, _ = _prepare(Given(entries, entries[:5]), tmp_path, max_images=10)
    assert train.images[:, 0, 0, 0].tolist() == [9, 19, 29, 39, 49, 59, 69, 79, 89, 99]
    assert len(test) == 5
    uncounted = Given(entries, entries[:5], counted=False)
    train, _, _ = _prepare(uncounted, tmp_path / "uncounted", max_images=10)
    assert train.images[:, 0, 0, 0].tolist() == list(range(10))


def test_grey_and_coloured_images_become_colour(tmp_path: Path) -> None:
    grey, colour = _entries(40), _entries(40, (4, 4, 3), seed=1)
    for name, entries in (("a", grey + colour), ("b", colour + grey)):
        train, _, _ = _prepare(Given(entries, colour), tmp_path / name)
        assert train.image_shape == (3, 4, 4)
        first = 0 if name == "a" else 40
        for channel in range(3):
            expected = np.stack([image for image, _ in grey])
            np.testing.assert_array_equal(train.images[first : first + 40, channel], expected)


def test_channels_can_be_asked_for(tmp_path: Path) -> None:
    for channels in (1, 3, 4):
        train, _, card = _prepare(Digits(), tmp_path, channels=channels, max_images=50)
        assert train.image_shape == (channels, 8, 8)
        assert card["channels"] == channels


def test_labels_without_names_are_numbered(tmp_path: Path) -> None:
    train, test, _ = _prepare(Given(_entries(30), [(np.zeros((4, 4), np.uint8), 4)]), tmp_path)
    assert train.classes == test.classes == ("0", "1", "2", "3", "4")


def test_a_split_may_be_without_labels(tmp_path: Path) -> None:
    hidden = [(image, -1) for image, _ in _entries(9)]  # as test splits on the hub have it
    train, test, _ = _prepare(Given(_entries(9), hidden, ("a", "b", "c")), tmp_path)
    assert train.labels is not None
    assert test.labels is None
    assert test.classes == ()


def test_broken_images_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries: list[Entry] = _entries(100)
    entries[7] = (OSError("cut off"), 1)
    entries[93] = (ZeroDivisionError(), None)
    with caplog.at_level(logging.WARNING):
        train, _, card = _prepare(Given(entries, entries[:5]), tmp_path, max_unreadable=0.02)
    assert "train[7], train[93]" in caplog.text
    assert len(train) == 98
    assert card["unreadable"] == {
        "number": 2,
        "files": [
            {"name": "train[7]", "reason": "cut off"},
            {"name": "train[93]", "reason": "ZeroDivisionError"},
        ],
    }


@pytest.mark.parametrize("counted", [True, False])
def test_too_many_broken_images_are_refused(tmp_path: Path, counted: bool) -> None:
    entries: list[Entry] = _entries(100)
    entries[7] = entries[9] = (OSError("cut off"), 1)
    source = Given(entries, [], counted=counted)
    with pytest.raises(InputError, match=r"0\.01 .* cannot be read: train\[7\] \(cut off\), train"):
        _prepare(source, tmp_path, max_unreadable=0.01)
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".lock"]


def test_sizes_that_differ_need_an_image_size(tmp_path: Path) -> None:
    for name, size in (("a", (40, 30)), ("b", (64, 48)), ("c", (33, 50))):
        Image.new("RGB", size, (10, 20, 30)).save(tmp_path / f"{name}.png")
    message = r"a\.png is 40x30, b\.png is 64x48; set image_size \(such as image_size=16\)"
    with pytest.raises(InputError, match=message):
        _prepare(ImageFolder(tmp_path), tmp_path / "store")
    source = ImageFolder(tmp_path)
    with pytest.raises(InputError, match="none of its 3 images is in the train split"):
        _prepare(source, tmp_path / "store", image_size=16, test_fraction=0.999)


def test_sizes_are_made_equal(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index, (height, width) in enumerate([(40, 30), (64, 48), (33, 50), (9, 70)]):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "test").mkdir(exist_ok=True)
        folder = "test" if index == 3 else "train"
        Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    train, test, _ = _prepare(ImageFolder(tmp_path), tmp_path / "store", image_size=16)
    assert train.images.shape == (3, 3, 16, 16)
    assert test.images.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("entries", "classes", "message"),
    [
        ([(np.zeros((2, 2), np.uint8), 0), (np.ones((2, 2), np.uint8), None)], None, "no label"),
        ([(np.zeros((2, 2), np.uint8), 5)], ("a", "b"), "names for 2 classes only"),
        ([(np.zeros((2, 2), np.uint8), 10**9)], None, "without class names"),
        ([], None, "no image"),
    ],
)
def test_wrong_labels_and_empty_sources_are_refused(
    tmp_path: Path, entries: list[Entry], classes: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _prepare(Given(entries, entries, classes), tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"test_fraction": 0.0},
        {"test_fraction": 1.0},
        {"test_fraction": float("nan")},
        {"max_unreadable": -0.1},
        {"image_size": 0},
        {"channels": 2},
        {"max_images": 1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=rf"preparation\.{name}="):
        _settings(**wrong)


def test_too_small_a_disk_is_seen_at_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"where 0 MB are free; set prepared_root"):
        _prepare(Given(_entries(10), []), tmp_path)


class _Noise(Given):
    """Images that exist only while they are read."""

    def __init__(self, number: int, side: int) -> None:
        super().__init__([], [])
        self.number, self.side = number, side

    def splits(self) -> Mapping[str, SplitInfo]:
        return {"train": SplitInfo(self.number)}

    def read(self, split: str) -> Iterator[RawImage]:
        for seed in range(self.number):
            yield RawImage(str(seed), lambda seed=seed: (_noise(seed, self.side), None))


def _noise(seed: int, side: int) -> Image.Image:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "BMP")
    return Image.open(buffer)


@pytest.mark.parametrize(("number", "side"), [(2000, 64), (40, 1024)])
def test_memory_does_not_grow_with_the_number_of_images(
    tmp_path: Path, number: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    tracemalloc.start()
    try:
        _prepare(_Noise(number, side), tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < number * side * side * 3 / 2


def test_a_copied_or_touched_folder_is_not_prepared_again(tmp_path, monkeypatch):
    for number, (pixels, _) in enumerate(_entries(30)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    *_, card = _prepare(ImageFolder(tmp_path / "photos"), tmp_path / "store")
    copied = shutil.copytree(tmp_path / "photos", tmp_path / "copied")
    os.utime(copied / "3.png", (1, 1))
    with monkeypatch.context() as patched:
        patched.setattr("ddpm_kedro.images.preparation.decode", None)
        assert _prepare(ImageFolder(copied), tmp_path / "store")[2] == card
    shutil.copy(copied / "4.png", copied / "3.png")
    assert _prepare(ImageFolder(copied), tmp_path / "store")[2]["key"] != card["key"]


def test_other_facts_of_the_same_images_keep_the_content_hash(tmp_path, monkeypatch):
    """As when facts were sizes and times: prepared once more, and trainings are still found."""
    *_, card = _prepare(Given(_entries(30)), tmp_path)
    monkeypatch.setattr(Given, "facts", lambda _: {"files": [["0.png", 35, 1764086400000000000]]})
    *_, again = _prepare(Given(_entries(30)), tmp_path)
    assert card["key"] != again["key"]
    for split in ("train", "test"):
        assert card["splits"][split]["content_hash"] == again["splits"][split]["content_hash"]


class Listing(Given):
    """Gives a list where a mapping is due."""

    def splits(self):
        return list(super().splits())


class Nameless(Given):
    name = None


class Unspeakable(Given):
    def facts(self):
        return {"when": Path("here")}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Listing, "splits() gives a mapping such as"),
        (Nameless, "a source has a name"),
        (Unspeakable, "facts() of test_preparation.Unspeakable: "),
        (list, "dataset type=builtins.list is not an ImageSource; "),
    ],
)
def test_a_source_that_does_not_do_its_part_is_one_line(source, words, tmp_path):
    with pytest.raises(InputError) as refused:
        prepare(source(_entries(9)), ImageStore(tmp_path), _settings())
    assert words in str(refused.value)
