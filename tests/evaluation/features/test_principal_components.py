from __future__ import annotations

import numpy as np
import pytest

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features import PrincipalComponents
from ddpm_kedro.evaluation.features.extractor import pixel_chunks

CHUNK_BYTES = "ddpm_kedro.evaluation.features.extractor.CHUNK_BYTES"


def smooth_images(count: int, side: int, seed: int) -> np.ndarray:
    """Images whose variance falls quickly over the components, as that of photos does."""
    generator = np.random.default_rng(seed)
    scales = 0.8 ** np.arange(30)
    patterns = np.linalg.qr(np.random.default_rng(99).standard_normal((3 * side * side, 30)))[0]
    values = generator.standard_normal((count, 30)) * scales @ patterns.T
    values = 127.5 + 110 * values / np.abs(values).max()
    return values.round().astype(np.uint8).reshape(count, 3, side, side)


def extracted(extractor: PrincipalComponents, images: np.ndarray) -> np.ndarray:
    return np.concatenate(list(extractor.features(images)))


def test_pixels_come_in_order_and_in_the_models_range(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(64, 1, 2, 2)
    monkeypatch.setattr(CHUNK_BYTES, 8 * 4 * 10)
    chunks = list(pixel_chunks(images))
    assert [len(chunk) for chunk in chunks] == [10] * 6 + [4]
    np.testing.assert_allclose(np.concatenate(chunks).ravel(), np.arange(256) / 127.5 - 1)
    assert images[0, 0, 0, 1] == 1  # as it was


@pytest.mark.parametrize("side", [6, 20], ids=["exact", "iterated"])
def test_components_are_those_of_the_singular_value_decomposition(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = smooth_images(80, side, seed=0)
    monkeypatch.setattr(CHUNK_BYTES, 8 * images[0].size * 13)  # several chunks
    extractor = PrincipalComponents(num_components=5, num_iterations=12)
    extractor.fit(images)
    pixels = images.reshape(80, -1) / 127.5 - 1
    _, scales, right = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)
    projector = extractor.directions @ extractor.directions.T
    np.testing.assert_allclose(projector, right[:5].T @ right[:5], atol=1e-7)
    share = np.square(scales[:5]).sum() / np.square(scales).sum()
    assert extractor.explained_variance == pytest.approx(share, rel=1e-9)
    covariance = np.cov(extracted(extractor, images), rowvar=False)
    np.testing.assert_allclose(covariance, np.diag(np.square(scales[:5]) / 79), atol=1e-8)


def test_more_components_than_the_data_have_are_cut() -> None:
    images = smooth_images(4, 4, seed=1)
    extractor = PrincipalComponents(num_components=20)
    extractor.fit(images)
    assert extracted(extractor, images).shape == (4, 3)
    assert extractor.identity == "pixels: 3 principal components"


def test_refusals() -> None:
    with pytest.raises(InputError, match="num_components=0"):
        PrincipalComponents(num_components=0)
    extractor = PrincipalComponents()
    with pytest.raises(InputError, match="fit them"):
        extracted(extractor, smooth_images(2, 4, seed=0))
    with pytest.raises(InputError, match="at least 2 training images, not 1"):
        extractor.fit(smooth_images(1, 4, seed=0))
    extractor.fit(smooth_images(9, 4, seed=0))
    with pytest.raises(InputError, match="48 numbers"):
        extracted(extractor, smooth_images(2, 5, seed=0))
