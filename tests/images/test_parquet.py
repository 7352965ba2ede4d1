"""Parquet files in the Hugging Face layout and near it."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from ddpm_kedro.errors import InputError
from ddpm_kedro.images import ParquetImages


def _png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), level).save(buffer, "PNG")
    return buffer.getvalue()


def _hub_table(levels: range, labels: list[Any], names: list[str] | None = None) -> pa.Table:
    table = pa.table(
        {
            "id": list(range(len(levels))),
            "img": [{"bytes": _png(level), "path": None} for level in levels],
            "label": labels,
        }
    )
    if names is None:
        return table
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    hub = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": hub})


def _read(source: ParquetImages, split: str = "train") -> list[tuple[int, int | None]]:
    pairs = [image.load() for image in source.read(split)]
    return [(int(np.asarray(pixels)[0, 0]), label) for pixels, label in pairs]


def test_file_with_metadata(tmp_path: Path) -> None:
    levels = range(150)  # more than one read
    labels = [level % 2 for level in levels]
    parquet.write_table(_hub_table(levels, labels, ["cat", "dog"]), tmp_path / "photos.parquet")
    source = ParquetImages(tmp_path / "photos.parquet")
    assert source.classes == ("cat", "dog")
    assert {split: info.num_images for split, info in source.splits().items()} == {"train": 150}
    assert _read(source) == list(zip(levels, labels, strict=True))
    assert next(source.read("train")).name == "photos.parquet row 0"


def test_folder_of_shards(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, levels in (
        ("train-00001-of-00002", range(2, 4)),
        ("train-00000-of-00002", range(2)),
        ("test-00000-of-00001", range(4, 5)),
        ("validation-00000-of-00001", range(5, 6)),
    ):
        table = _hub_table(levels, [0] * len(levels), ["all"])
        parquet.write_table(table, tmp_path / "data" / f"{name}.parquet")
    source = ParquetImages(tmp_path)
    assert list(source.splits()) == ["train", "test"]
    assert [level for level, _ in _read(source)] == [0, 1, 2, 3]
    assert [level for level, _ in _read(source, "test")] == [4]
    (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
    assert [level for level, _ in _read(ParquetImages(tmp_path), "test")] == [5]


def test_files_without_split_names_are_one_split(tmp_path: Path) -> None:
    parquet.write_table(_hub_table(range(1), [0]), tmp_path / "a.parquet")
    parquet.write_table(_hub_table(range(1, 2), [1]), tmp_path / "b.parquet")
    source = ParquetImages(tmp_path)
    assert _read(source) == [(0, 0), (1, 1)]
    assert source.classes is None
    parquet.write_table(_hub_table(range(1), [0]), tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"a\.parquet does not say its split"):
        ParquetImages(tmp_path).splits()


def test_strings_are_labels(tmp_path: Path) -> None:
    parquet.write_table(_hub_table(range(3), ["dog", "ant", "dog"]), tmp_path / "a.parquet")
    source = ParquetImages(tmp_path / "a.parquet")
    assert source.classes == ("ant", "dog")
    assert _read(source) == [(0, 1), (1, 0), (2, 1)]


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    table = pa.table(
        {
            "left": [_png(1)],
            "right": [_png(2)],
            "label": pa.array([0], pa.int8()),
            "kind": pa.array([3], pa.int16()),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    path = tmp_path / "a.parquet"
    assert _read(ParquetImages(path, image_column="right")) == [(2, 0)]
    assert _read(ParquetImages(path, "left", label_column="kind")) == [(1, 3)]
    assert _read(ParquetImages(path, "left", label_column=False)) == [(1, None)]
    assert ParquetImages(path, "left", label_column=False).classes == ()
    with pytest.raises(InputError, match="2 columns hold images; set image_column to one of left"):
        ParquetImages(path).splits()
    with pytest.raises(InputError, match=r"image_column=middle: .* has the columns left, right"):
        ParquetImages(path, "middle").splits()
    with pytest.raises(InputError, match="label_column=age"):
        ParquetImages(path, "left", label_column="age").splits()
    with pytest.raises(InputError, match=r"image_column=label: .* holds int8"):
        ParquetImages(path, "label").splits()
    with pytest.raises(InputError, match=r"label_column=right: .* holds binary"):
        ParquetImages(path, "left", label_column="right").splits()
    with pytest.raises(InputError, match="label_column=true"):
        ParquetImages(path, "left", label_column=True)


def test_rows_may_point_to_files(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(_png(9))
    rows = [{"bytes": None, "path": "one.png"}, {"bytes": None, "path": "no.png"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "a.parquet")
    found, missing = ParquetImages(tmp_path / "a.parquet").read("train")
    assert np.asarray(found.load()[0])[0, 0] == 9
    with pytest.raises(FileNotFoundError):
        missing.load()


def test_row_without_image_fails_alone(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [_png(1), None]}), tmp_path / "a.parquet")
    good, empty = ParquetImages(tmp_path / "a.parquet").read("train")
    assert good.load()[1] is None
    with pytest.raises(ValueError, match="holds no image"):
        empty.load()


def test_files_of_different_sets_are_refused(tmp_path: Path) -> None:
    parquet.write_table(_hub_table(range(1), [0], ["cat"]), tmp_path / "train.parquet")
    parquet.write_table(_hub_table(range(1), [0], ["dog"]), tmp_path / "test.parquet")
    with pytest.raises(InputError, match="other columns or class names"):
        ParquetImages(tmp_path).splits()


def test_wrong_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image_path is not set"):
        ParquetImages(None).splits()
    with pytest.raises(InputError, match=r"none\.parquet: No such file"):
        ParquetImages(tmp_path / "none.parquet").splits()
    with pytest.raises(InputError, match=r"no \.parquet files"):
        ParquetImages(tmp_path).splits()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and then nothing that is Parquet")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        ParquetImages(path).splits()
    noise = np.random.default_rng(0).bytes(20_000)
    parquet.write_table(pa.table({"image": [noise] * 3 + [noise[::-1]]}), path)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)  # the first page's header
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged from row 0 on"):
        list(ParquetImages(path).read("train"))


def test_facts_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(_hub_table(range(1), [0]), path)
    before = ParquetImages(path).facts()
    assert ParquetImages(path).facts() == before
    assert ParquetImages(path, label_column=False).facts() != before
    copied = Path(shutil.copyfile(path, tmp_path / "b.parquet"))
    os.utime(copied, (1, 1))
    assert ParquetImages(copied).facts() == before
    parquet.write_table(_hub_table(range(1, 2), [0]), path)
    os.truncate(path, copied.stat().st_size)
    os.utime(path, (1, 1))
    assert ParquetImages(path).facts() != before


def test_facts_know_of_the_splits(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "test-0"):
        parquet.write_table(_hub_table(range(1), [0]), tmp_path / f"{name}.parquet")
    before = ParquetImages(tmp_path).facts()
    (tmp_path / "train-1.parquet").rename(tmp_path / "test-1.parquet")
    assert ParquetImages(tmp_path).facts() != before
