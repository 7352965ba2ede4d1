"""Features of image sets, kept by what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np

from ddpm_kedro.evaluation.features import FeatureExtractor
from ddpm_kedro.evaluation.features.extractor import features_of
from ddpm_kedro.files import atomic_write

LOGGER = logging.getLogger(__name__)


class FeatureStore:
    """A folder, made where missing, with one `.npy` file for each set of images and extractor.

    A file gets its name when it is whole, so two processes that want the same features both make
    them and one of the two equal files stays. Beyond `most_bytes` in all (2 GiB are 400,000 images'
    1,280 features) those go that were used longest ago. Any of it may be deleted by hand.
    """

    def __init__(self, path: str | os.PathLike[str], most_bytes: int = 2 << 30) -> None:
        self.path, self.most_bytes = Path(path), most_bytes

    def features(
        self, extractor: FeatureExtractor, images: np.ndarray, key: str | None
    ) -> np.ndarray:
        """Features, float32 (n, d), of uint8 images (n, C, H, W); found again where they were made
        before, else made now.

        `key` tells what the images are, such as their set's content hash with the rows chosen from
        it; None keeps nothing, nor are pixels kept, which are fitted anew each time. InputError
        where features are not finite, or the extractor cannot see such images.
        """
        if key is None or extractor.uses_pixels:
            return features_of(extractor, images)
        path = self._file(extractor, images, key)
        found = _read(path, len(images))
        if found is None:
            found = features_of(extractor, images)
            self._keep(path, found)
        return found

    def holds(self, extractor: FeatureExtractor, images: np.ndarray, key: str) -> bool:
        """Whether there is a file of these features."""
        return not extractor.uses_pixels and self._file(extractor, images, key).exists()

    def _file(self, extractor: FeatureExtractor, images: np.ndarray, key: str) -> Path:
        facts = json.dumps([extractor.identity, key, list(images.shape)])
        return self.path / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.npy"

    def _keep(self, path: Path, found: np.ndarray) -> None:
        try:
            with atomic_write(path) as file:
                np.save(file, found)
                file.write(_checksum(found))
        except OSError as error:  # the scores do not depend on it
            LOGGER.warning("features are not kept in %s: %s", self.path, error.strerror)
        with contextlib.suppress(OSError):  # another process makes room too
            self._make_room()

    def _make_room(self) -> None:
        left = self.most_bytes
        facts = [(file, file.stat()) for file in self.path.glob("*.npy")]
        for file, fact in sorted(facts, key=lambda pair: -pair[1].st_mtime_ns):
            left -= fact.st_size
            if left < 0:
                file.unlink(missing_ok=True)


def _checksum(features: np.ndarray) -> bytes:
    """What stands behind an array in its file, where `np.load` does not look."""
    return hashlib.sha256(np.ascontiguousarray(features).data).digest()


def _read(path: Path, count: int) -> np.ndarray | None:
    """What a file holds, if it is whole and of `count` images."""
    try:
        with open(path, "rb") as file:
            found, checksum = np.load(file, allow_pickle=False), file.read()
        if found.dtype != np.float32 or found.ndim != 2 or len(found) != count:
            raise ValueError("it holds something else")
        if checksum != _checksum(found):
            raise ValueError("its checksum is missing or another one")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        LOGGER.warning("%s is not whole (%s); making these features again", path, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used now
    return found
