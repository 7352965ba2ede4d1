from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kedro.io import AbstractDataset, DatasetError
from PIL import Image

from ddpm_kedro.datasets.arrays import NumpyFile
from ddpm_kedro.datasets.report_files import (
    DiagnosticsFile,
    JSONFile,
    MetricsFile,
    PictureFile,
    TextFile,
)
from ddpm_kedro.errors import InputError
from ddpm_kedro.evaluation.curves import figure
from ddpm_kedro.files import atomic_write

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 5), dtype=np.uint8)
PICTURE = Image.fromarray(IMAGES[0].transpose(1, 2, 0))
VALUES = [
    (PictureFile, PICTURE),
    (NumpyFile, IMAGES),
    (JSONFile, {"b": [1, 2.5, None], "a": "Fréchet"}),
    (TextFile, "<p>Fréchet</p>\r\n"),
]


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_what_is_saved_is_loaded(kind: Callable[..., Any], value: Any, tmp_path: Path) -> None:
    dataset = kind(filepath=str(tmp_path / "new" / "file.png"))
    assert not dataset.exists()
    dataset.save(value)
    assert dataset.exists()
    np.testing.assert_array_equal(np.asarray(dataset.load()), np.asarray(value))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.png"]


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_the_same_value_is_the_same_bytes(
    kind: Callable[..., Any], value: Any, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        kind(filepath=str(tmp_path / name)).save(value)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_a_missing_file_names_the_stage_that_writes_it(
    kind: Callable[..., Any], value: Any, tmp_path: Path
) -> None:
    dataset = kind(filepath=str(tmp_path / "file.png"), written_by="sampling")
    with pytest.raises(DatasetError) as caught:
        dataset.load()
    assert isinstance(caught.value.__cause__, InputError)
    assert str(caught.value.__cause__) == (
        f"no file {tmp_path / 'file.png'}: run `kedro run --pipelines sampling` first"
    )


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_a_failing_save_leaves_the_old_file(
    kind: Callable[..., Any], value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = kind(filepath=str(tmp_path / "file.png"))
    dataset.save(value)
    before = (tmp_path / "file.png").read_bytes()

    def full(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DatasetError, match="no space left"):
        dataset.save(value)
    assert (tmp_path / "file.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", [PictureFile, NumpyFile, JSONFile, TextFile])
def test_a_torn_file_is_named(kind: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(b"\xff\xfe{")
    with pytest.raises(DatasetError) as caught:
        kind(filepath=str(tmp_path / "file.png")).load()
    assert isinstance(caught.value.__cause__, InputError)
    assert str(tmp_path / "file.png") in str(caught.value.__cause__)


def test_arrays_are_mapped_and_never_unpickled(tmp_path: Path) -> None:
    dataset = NumpyFile(filepath=str(tmp_path / "samples.npy"))
    dataset.save(IMAGES)
    loaded = dataset.load()
    assert isinstance(loaded, np.memmap)
    assert not loaded.flags.writeable
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(DatasetError, match="array of objects"):
        dataset.save(objects)
    with atomic_write(tmp_path / "samples.npy") as file:
        np.save(file, objects, allow_pickle=True)
    for broken in (None, b"hi\n", b""):
        if broken is not None:
            (tmp_path / "samples.npy").write_bytes(broken)
        with pytest.raises(DatasetError, match="not a whole array") as refused:
            dataset.load()
        assert "allow_pickle" not in str(refused.value)


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": {1, 2}}])
def test_what_json_cannot_say_is_refused(value: Any, tmp_path: Path) -> None:
    dataset = JSONFile(filepath=str(tmp_path / "file.png"))
    with pytest.raises(DatasetError, match="cannot be written as JSON"):
        dataset.save(value)
    assert not dataset.exists()


def shown(preview: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(preview)))


def test_pictures_are_previewed_and_large_ones_made_smaller(tmp_path: Path) -> None:
    dataset = PictureFile(filepath=str(tmp_path / "file.png"))
    assert dataset.preview() == ""
    dataset.save(PICTURE)
    np.testing.assert_array_equal(np.asarray(shown(dataset.preview())), np.asarray(PICTURE))
    dataset.save(Image.new("L", (300, 100)))
    assert shown(dataset.preview(max_side=60)).size == (60, 20)


def test_images_in_an_array_are_previewed_as_a_grid(tmp_path: Path) -> None:
    dataset = NumpyFile(filepath=str(tmp_path / "file.png"))
    assert dataset.preview() == ""
    dataset.save(IMAGES)
    assert min(shown(dataset.preview()).size) > 5
    dataset.save(np.zeros(3))
    assert dataset.preview() == ""


def test_metrics_are_previewed_as_a_table(tmp_path: Path) -> None:
    dataset = MetricsFile(filepath=str(tmp_path / "file.png"))
    assert dataset.preview()["data"] == []
    dataset.save({"distance": 0.123456789, "copies": 0, "skipped_classes": "no labels"})
    table = dataset.preview()
    assert table["columns"] == ["metric", "value"]
    assert table["data"] == [["distance", 0.12346], ["copies", 0], ["skipped_classes", "no labels"]]


def test_a_figure_of_the_diagnostics_is_previewed(tmp_path: Path) -> None:
    dataset = DiagnosticsFile(filepath=str(tmp_path / "file.png"))
    assert dataset.preview() == {}
    figures = {
        name: figure(name, "x", "y", {"a": ([1, 2], [3, 4])}) for name in ("first", "second")
    }
    dataset.save({"figures": figures})
    assert dataset.preview() == figures["first"]
    assert dataset.preview(figure="second") == figures["second"]
    plotly = pytest.importorskip("plotly.graph_objects")
    plotly.Figure(dataset.preview())  # Plotly itself accepts it


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (PictureFile, "ImagePreview"),
        (NumpyFile, "ImagePreview"),
        (JSONFile, "JSONPreview"),
        (MetricsFile, "TablePreview"),
        (DiagnosticsFile, "PlotlyPreview"),
    ],
)
def test_viz_learns_the_kind_of_preview_from_the_annotation(
    kind: type[AbstractDataset], name: str
) -> None:
    assert kind.preview.__annotations__["return"] == name


def test_facts_that_need_not_be_there_load_as_none(tmp_path):
    dataset = JSONFile(filepath=str(tmp_path / "file.png"), required=False)
    assert dataset.load() is None
    dataset.save({"a": 1})
    assert dataset.load() == {"a": 1}
