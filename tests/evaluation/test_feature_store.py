from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.feature_store import FeatureStore
from ddpm_kedro.evaluation.features import FeatureExtractor, PrincipalComponents

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 1, 2, 2), dtype=np.uint8)


class Counting(FeatureExtractor):
    """The pixels themselves; counts how often it is asked."""

    def __init__(self, identity: str = "own", factor: float = 1.0) -> None:
        self.name, self.factor, self.asked = identity, factor, 0

    @property
    def identity(self) -> str:
        return self.name

    def features(self, images: np.ndarray) -> Iterator[np.ndarray]:
        self.asked += 1
        for start in range(0, len(images), 4):
            yield images[start : start + 4].reshape(-1, 4) * self.factor


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def files(store: FeatureStore) -> list[Path]:
    return sorted(store.path.iterdir())


def test_features_are_found_again_in_order(store):
    extractor = Counting()
    first = store.features(extractor, IMAGES, "train")
    np.testing.assert_array_equal(first, IMAGES.reshape(10, 4))
    assert first.dtype == np.float32
    again = FeatureStore(store.path).features(extractor, IMAGES, "train")
    np.testing.assert_array_equal(again, first)
    assert extractor.asked == 1


def test_another_extractor_set_or_shape_has_features_of_its_own(store):
    extractor = Counting()
    store.features(extractor, IMAGES, "train")
    store.features(extractor, IMAGES, "test")
    store.features(extractor, IMAGES[:8], "train")
    other = store.features(Counting("other", factor=2.0), IMAGES, "train")
    np.testing.assert_array_equal(other, 2.0 * IMAGES.reshape(10, 4))
    assert extractor.asked == 3
    assert len(files(store)) == 4


def test_what_has_no_key_or_is_pixels_is_not_kept(store):
    assert store.features(Counting(), IMAGES, None).shape == (10, 4)
    pixels = PrincipalComponents(2)
    pixels.fit(IMAGES)
    assert store.features(pixels, IMAGES, "train").shape == (10, 2)
    assert not store.path.exists()


@pytest.mark.parametrize("kept", [0, 5, 100, 200])
def test_a_torn_file_is_made_again(store, kept, caplog):
    extractor = Counting()
    whole = store.features(extractor, IMAGES, "train")
    path = files(store)[0]
    path.write_bytes(path.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(store.features(extractor, IMAGES, "train"), whole)
    assert "is not whole" in caplog.text
    store.features(extractor, IMAGES, "train")
    assert extractor.asked == 2


@pytest.mark.parametrize("where", [-40, -1])  # a feature, its checksum
def test_an_altered_file_is_made_again(store, where, caplog):
    extractor = Counting()
    whole = store.features(extractor, IMAGES, "train")
    content = bytearray(files(store)[0].read_bytes())
    content[where] ^= 1
    files(store)[0].write_bytes(content)
    np.testing.assert_array_equal(store.features(extractor, IMAGES, "train"), whole)
    assert caplog.text.count("its checksum is missing or another one") == 1
    store.features(extractor, IMAGES, "train")
    assert extractor.asked == 2


def test_a_file_of_an_earlier_version_is_made_again(store):
    extractor = Counting()
    whole = store.features(extractor, IMAGES, "train")
    np.save(files(store)[0], whole)
    np.testing.assert_array_equal(store.features(extractor, IMAGES, "train"), whole)
    store.features(extractor, IMAGES, "train")
    assert extractor.asked == 2


def test_a_pickle_in_its_place_is_not_opened(store):
    store.features(Counting(), IMAGES, "train")
    np.save(files(store)[0], np.array([object()]), allow_pickle=True)
    assert store.features(Counting(), IMAGES, "train").shape == (10, 4)


def test_what_was_used_longest_ago_makes_room(store):
    extractor = Counting()
    store.features(extractor, IMAGES, "first")
    first = files(store)[0]
    store.most_bytes = 2 * first.stat().st_size
    store.features(extractor, IMAGES, "second")
    for file in files(store):
        os.utime(file, (1, 1))  # long ago
    store.features(extractor, IMAGES, "first")  # used now
    store.features(extractor, IMAGES, "third")
    assert len(files(store)) == 2
    assert first in files(store)
    store.features(extractor, IMAGES, "first")
    assert extractor.asked == 3


def test_a_folder_that_cannot_be_written_costs_no_scores(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    found = FeatureStore(tmp_path / "file" / "features").features(Counting(), IMAGES, "train")
    assert found.shape == (10, 4)
    assert "features are not kept" in caplog.text


def test_features_that_are_not_finite_are_refused_and_not_kept(store):
    for factor in (np.nan, np.inf):
        with pytest.raises(InputError, match="features broken: those of 10 of 10 images are not"):
            store.features(Counting("broken", factor), IMAGES + 1, "train")
    assert not store.path.exists()
