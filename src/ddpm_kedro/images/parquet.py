"""Parquet files in the layout that image sets on the Hugging Face hub have."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from ddpm_kedro.errors import InputError, one_line
from ddpm_kedro.images.source import (
    SPLIT_OF,
    ImageSource,
    RawImage,
    SplitInfo,
    by_split,
    existing_path,
    file_facts,
)

WANTED = "a Parquet file, or a folder of them"
LABEL_NAMES = ("label", "labels", "class", "target", "fine_label", "category")
ROWS_PER_READ = 64  # encoded images held in memory at once, fewer where they are large:
BYTES_PER_READ = 4 * 2**20

# The image column, the label column, and the class names of the first file
_Columns = tuple[str, str | None, tuple[str, ...] | None]


class ParquetImages(ImageSource):
    """One row an image: a column struct(bytes, path) or binary, and a column of labels.

    `path` is a file, or a folder that is searched to the bottom; files with `train` and `test` (or
    `validation`, where there is no `test`) in their names are splits. `image_column` None takes the
    one that the `huggingface` metadata of the schema or, without it, the column types show.
    `label_column`, integers or strings, None takes the first that the metadata calls a ClassLabel,
    or a column named `label`, `class`, ...; False takes none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        image_column: str | None = None,
        label_column: str | bool | None = None,
    ) -> None:
        if label_column is True:
            raise InputError("label_column=true: give the column's name, null, or false for none")
        self.path = path
        self.image_column = image_column
        self.label_column = label_column
        self.name = Path(path).stem if path else "parquet"

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        path = existing_path(self.path, WANTED)
        if path.is_file():
            return {"train": [path]}
        files = sorted(path.rglob("*.parquet"))
        if not files:
            raise InputError(f"image_path={path}: no .parquet files found in this folder")
        named = [(_split_of(file.relative_to(path).as_posix()), file) for file in files]
        found = {split for split, _ in named}
        if found == {None}:
            return {"train": files}
        if None in found or "train" not in found:
            odd = next(file for split, file in named if split in (None, "validation"))
            raise InputError(
                f"image_path={path}: {odd.name} does not say its split; name every file after "
                "train or test, or none"
            )
        return by_split(named)

    @cached_property
    def _columns(self) -> _Columns:
        found: Any = None
        for file in chain.from_iterable(self._files.values()):
            with _open_parquet(file) as parquet:
                columns = self._columns_of(parquet, file)
            if found is not None and columns != found:
                raise InputError(
                    f"{file.name} has other columns or class names ({columns}) than the files "
                    f"before it ({found}); image_path={self.path} must hold one set of images"
                )
            found = columns
        return found

    def _columns_of(self, parquet: Any, file: Path) -> _Columns:
        from pyarrow import types

        schema = parquet.schema_arrow
        hub = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = hub.get("info", {}).get("features", {})
        kinds = {name: feature.get("_type") for name, feature in features.items() if feature}
        for option in ("image_column", "label_column"):
            if (given := getattr(self, option)) and given not in schema.names:
                known = ", ".join(schema.names)
                raise InputError(f"{option}={given}: {file} has the columns {known}")
        image_column = self.image_column
        if image_column is None:
            holders = [field.name for field in schema if _holds_bytes(field.type, types)]
            candidates = [name for name in schema.names if kinds.get(name) == "Image"] or holders
            if len(candidates) != 1:
                raise InputError(
                    f"{file}: {len(candidates)} columns hold images; set image_column to one of "
                    f"{', '.join(candidates or schema.names)}"
                )
            image_column = candidates[0]
        elif not _holds_bytes(kind := schema.field(image_column).type, types):
            raise InputError(
                f"image_column={image_column}: {file} holds {kind} there, not the bytes of images"
            )
        label_column = self.label_column
        if label_column is None:
            candidates = [name for name in schema.names if kinds.get(name) == "ClassLabel"]
            candidates += [name for name in LABEL_NAMES if name in schema.names]
            label_column = next(iter(candidates), None)
        if not label_column:
            return image_column, None, ()
        kind = schema.field(label_column).type
        if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
            right = "labels are integers or strings"
            raise InputError(f"label_column={label_column}: {file} holds {kind} there; {right}")
        names = (features.get(label_column) or {}).get("names")
        return image_column, label_column, tuple(names) if names else None

    @cached_property
    def classes(self) -> tuple[str, ...] | None:
        from pyarrow import types

        _, label_column, names = self._columns
        if names is not None:
            return names
        with _open_parquet(self._files["train"][0]) as parquet:
            if types.is_integer(parquet.schema_arrow.field(label_column).type):
                return None
        found: set[str] = set()
        for file in chain.from_iterable(self._files.values()):
            with _open_parquet(file) as parquet:
                for batch in parquet.iter_batches(columns=[label_column]):
                    found.update(batch.column(0).to_pylist())
        return tuple(sorted(found - {None}))

    def splits(self) -> dict[str, SplitInfo]:
        self._columns  # noqa: B018 -- wrong columns are refused before any work
        rows = {split: sum(map(_num_rows, files)) for split, files in self._files.items()}
        return {split: SplitInfo(number) for split, number in rows.items()}

    def read(self, split: str) -> Iterator[RawImage]:
        import pyarrow

        image_column, label_column, _ = self._columns
        numbers = {name: number for number, name in enumerate(self.classes or ())}
        columns = [image_column] + ([label_column] if label_column else [])
        for file in self._files[split]:
            row = 0
            try:
                with _open_parquet(file) as parquet:
                    rows = _rows_per_read(parquet.metadata)
                    for batch in parquet.iter_batches(rows, columns=columns, use_threads=False):
                        for entry in batch.to_pylist():
                            label = entry.get(label_column)
                            label = numbers[label] if isinstance(label, str) else label
                            load = partial(_open_image, entry[image_column], label, file.parent)
                            yield RawImage(f"{file.name} row {row}", load)
                            row += 1
            except (pyarrow.ArrowException, OSError) as error:
                where = f"{file} is damaged from row {row} on"
                raise InputError(f"{where}: {one_line(error)}") from error

    def facts(self) -> dict[str, Any]:
        # The split of a file is said by its path below the folder
        files = list(chain.from_iterable(self._files.values()))
        facts = file_facts(files, existing_path(self.path, WANTED), self.name)
        return {"columns": [self.image_column, self.label_column], **facts}


def _open_parquet(file: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file, memory_map=True, buffer_size=1 << 20, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a readable Parquet file: {one_line(error)}") from error


def _num_rows(file: Path) -> int:
    with _open_parquet(file) as parquet:
        return parquet.metadata.num_rows


def _rows_per_read(metadata: Any) -> int:
    groups = range(metadata.num_row_groups)
    total_bytes = sum(metadata.row_group(group).total_byte_size for group in groups)
    return max(1, min(ROWS_PER_READ, BYTES_PER_READ * metadata.num_rows // max(1, total_bytes)))


def _open_image(
    image: dict[str, Any] | bytes | None, label: int | None, folder: Path
) -> tuple[Image.Image, int | None]:
    content = image.get("bytes") if isinstance(image, dict) else image
    if content is None and isinstance(image, dict) and image.get("path"):
        return Image.open(folder / image["path"]), label
    if content is None:
        raise ValueError("the row holds no image")
    return Image.open(io.BytesIO(content)), label


def _holds_bytes(kind: Any, types: Any) -> bool:
    if types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_bytes(kind.field(position).type, types)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _split_of(name: str) -> str | None:
    said = {SPLIT_OF.get(word) for word in re.split(r"[^a-z]+", name.lower())}
    return next((split for split in ("test", "validation", "train") if split in said), None)
