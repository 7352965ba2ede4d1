"""The bundled scans."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from ddpm_kedro.images import Digits


def test_scans_span_the_range_of_bytes() -> None:
    source = Digits()
    pairs = [image.load() for image in source.read("train")]
    scans = np.stack([np.asarray(pixels) for pixels, _ in pairs])
    assert scans.dtype == np.uint8
    assert scans.shape == (1797, 8, 8)
    bunch = load_digits()
    np.testing.assert_allclose(scans, bunch.images / 16 * 255, atol=0.5)
    assert [label for _, label in pairs] == bunch.target.tolist()
    assert source.splits()["train"].num_images == 1797
    assert list(source.splits()) == ["train"]


def test_facts_do_without_scikit_learn_where_its_file_is_found(monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sklearn.datasets.load_digits", None)
        facts = Digits().facts()
        assert Digits().facts() == facts
    monkeypatch.setattr("ddpm_kedro.images.digits.find_spec", lambda _: None)
    elsewhere = Digits().facts()
    assert set(elsewhere) == set(facts) == {"sha256"}
    assert elsewhere != facts
