"""The catalog's raw images."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DatasetError

from ddpm_kedro.datasets.raw_images import RawImages
from ddpm_kedro.errors import InputError
from ddpm_kedro.images import Digits, ImageFolder


def test_option_becomes_a_source(tmp_path: Path) -> None:
    assert isinstance(RawImages(source={"type": "ddpm_kedro.images.Digits"}).load(), Digits)
    option = {"type": "ddpm_kedro.images.ImageFolder", "path": str(tmp_path)}
    source = RawImages(source=option, metadata={"kedro-viz": {}}).load()
    assert isinstance(source, ImageFolder)
    assert source.path == str(tmp_path)


def test_existence_is_that_of_the_images(tmp_path: Path) -> None:
    assert RawImages(source={"type": "ddpm_kedro.images.Digits"}).exists()
    option = {"type": "ddpm_kedro.images.ImageFolder", "path": str(tmp_path / "none")}
    assert not RawImages(source=option).exists()


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises((InputError, DatasetError), match="is not an ImageSource"):
        RawImages(source={"type": "builtins.dict"}).load()


def test_nothing_is_written() -> None:
    with pytest.raises(DatasetError, match="nothing is written"):
        RawImages(source={"type": "ddpm_kedro.images.Digits"}).save(1)
