"""Small results lie where fsspec reaches, in versions where wanted, and never torn."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from kedro.io import DataCatalog, DatasetError, Version
from PIL import Image

from ddpm_kedro.datasets.report_files import JSONFile, PictureFile, TextFile
from ddpm_kedro.errors import InputError
from ddpm_kedro.framework.config_loader import LayeredConfigLoader
from ddpm_kedro.framework.session import mistake_in
from ddpm_kedro.hooks.stage_lines import path_of, shown_path

PICTURE = Image.new("RGB", (4, 3), (9, 8, 7))
OTHER = Image.new("RGB", (2, 2))
KINDS = [
    (JSONFile, {"a": [1, None], "b": "é"}, {"c": 1}),
    (TextFile, "é\r\n\n", "b"),
    (PictureFile, PICTURE, OTHER),
]


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory:///results"
    return str(tmp_path)


def same(first: Any, second: Any) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def mistake(work: Any) -> str:
    with pytest.raises((DatasetError, InputError)) as refused:
        work()
    found = mistake_in(refused.value)
    assert found is not None
    assert "\n" not in str(found)
    return str(found)


@pytest.mark.parametrize(("kind", "value", "other"), KINDS)
def test_a_file_is_the_same_bytes_everywhere(kind, value, other, root, tmp_path):
    dataset = kind(filepath=f"{root}/below/file.png", written_by="sampling")
    assert not dataset.exists()
    assert mistake(dataset.load) == (
        f"no file {root}/below/file.png: run `kedro run --pipelines sampling` first"
    )
    dataset.save(other)
    dataset.save(value)
    assert dataset.exists()
    assert same(dataset.load(), value)
    kind(filepath=str(tmp_path / "plain.png")).save(value)
    with fsspec.open(f"{root}/below/file.png") as file:
        assert file.read() == (tmp_path / "plain.png").read_bytes()


def test_json_and_text_have_fixed_bytes(tmp_path):
    JSONFile(filepath=str(tmp_path / "a.json")).save({"b": "é", "a": [1]})
    text = '{\n  "b": "é",\n  "a": [\n    1\n  ]\n}\n'
    assert (tmp_path / "a.json").read_bytes() == text.encode("utf-8")
    TextFile(filepath=str(tmp_path / "a.txt")).save("é\r\n\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n\n".encode()


@pytest.mark.parametrize(("kind", "value", "other"), KINDS)
def test_versions_are_kept_and_chosen(kind, value, other, root):
    def dataset(load: str | None = None, save: str | None = None) -> Any:
        return kind(filepath=f"{root}/file.png", version=Version(load, save))

    assert not dataset().exists()
    assert "run `kedro run` first" in mistake(dataset().load)
    assert kind(filepath=f"{root}/file.png", version=Version(None, "x"), required=False).load() is (
        None
    )
    dataset(save="2026-01-01T00.00.00.000Z").save(value)
    dataset(save="2026-01-02T00.00.00.000Z").save(other)
    assert same(dataset().load(), other)
    assert same(dataset("2026-01-01T00.00.00.000Z").load(), value)
    said = mistake(dataset("2025").load)
    assert "no version 2025 of" in said
    assert said.endswith("there are 2026-01-02T00.00.00.000Z, 2026-01-01T00.00.00.000Z")
    with pytest.raises(DatasetError, match="must not exist"):
        dataset(save="2026-01-01T00.00.00.000Z").save(value)


def test_a_version_that_is_asked_for_is_required(tmp_path):
    card = JSONFile(filepath=str(tmp_path / "c"), required=False, version=Version("2025", "2026"))
    assert "no version 2025" in mistake(card.load)


@pytest.mark.parametrize(
    ("kind", "value", "broken"),
    [
        (JSONFile, {"a": 1}, {"b": [0] * 9999, "a": float("nan")}),
        (TextFile, "old", "new" * 9999 + "\ud800"),
        (PictureFile, PICTURE, Image.new("F", (300, 300))),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(kind, value, broken, root):
    dataset = kind(filepath=f"{root}/file.png")
    dataset.save(value)
    with pytest.raises(DatasetError, match="cannot be written as"):
        dataset.save(broken)
    assert same(dataset.load(), value)


def test_turning_versions_on_and_off_is_one_line_before_any_work(tmp_path):
    path = str(tmp_path / "metrics.json")
    JSONFile(filepath=path).save({})
    entry = {"type": JSONFile, "filepath": path}
    said = mistake(
        lambda: DataCatalog.from_config({"metrics": {**entry, "versioned": True}})["metrics"]
    )
    assert "is a file, versions need a folder" in said
    Path(path).unlink()
    Path(path).mkdir()
    said = mistake(lambda: DataCatalog.from_config({"metrics": entry})["metrics"])
    assert "say `versioned: true`" in said


def test_a_file_system_that_is_not_there_is_one_line(monkeypatch):
    assert "nowhere" in mistake(lambda: JSONFile(filepath="nowhere://bucket/a.json"))

    def absent(*args: Any, **options: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.filesystem", absent)
    said = mistake(lambda: JSONFile(filepath="s3://bucket/a.json", credentials={"key": "k"}))
    assert said == "s3://bucket/a.json: Install s3fs to access S3"


def test_what_a_remote_file_system_says_is_one_line(monkeypatch):
    def closed(*args: Any, **options: Any) -> None:
        raise RuntimeError("Unable to locate credentials")

    dataset = JSONFile(filepath="memory:///closed/a.json")
    monkeypatch.setattr(dataset._fs, "pipe_file", closed)
    said = mistake(lambda: dataset.save({}))
    assert said == "cannot write memory:///closed/a.json (Unable to locate credentials)"
    monkeypatch.setattr(dataset._fs, "exists", closed)
    assert mistake(dataset.load) == (
        "memory:///closed/a.json cannot be read: Unable to locate credentials"
    )


def test_credentials_reach_the_file_system_and_no_message(monkeypatch):
    given = {}
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(
        "fsspec.filesystem", lambda name, **options: given.update(options) or memory
    )
    dataset = JSONFile(filepath="s3://bucket/a.json", credentials={"key": "k", "secret": "s3cret"})
    assert given == {"key": "k", "secret": "s3cret"}
    assert "s3cret" not in repr(dataset)


def test_hooks_find_the_version_that_was_saved(root):
    catalog = DataCatalog.from_config(
        {"report": {"type": TextFile, "filepath": f"{root}/report.html", "versioned": True}},
        load_versions={"report": "2026-01-01T00.00.00.000Z"},
        save_version="2026-01-02T00.00.00.000Z",
    )
    with pytest.warns(UserWarning, match="did not match"):
        catalog.save("report", "text")
    path = shown_path(catalog, "report")
    assert path.endswith("report.html/2026-01-02T00.00.00.000Z/report.html")
    with fsspec.open(path) as file:
        assert file.read() == b"text"
    local = path_of(catalog["report"])
    assert local == (None if root.startswith("memory") else Path(path))
    # a run that skips what is made saves nothing
    config = {"report": {"type": TextFile, "filepath": f"{root}/report.html", "versioned": True}}
    later = DataCatalog.from_config(config, save_version="2026-01-03T00.00.00.000Z")
    assert shown_path(later, "report") == path


def test_one_line_of_the_catalog_sends_the_results_elsewhere(tmp_path):
    conf = tmp_path / "conf"
    shutil.copytree(Path(__file__).parents[2] / "conf" / "base", conf / "base")
    (conf / "local").mkdir()
    (conf / "local" / "catalog.yml").write_text("_results: memory:///elsewhere\n")
    loader = LayeredConfigLoader(str(conf), base_env="base", default_run_env="local")
    catalog = DataCatalog.from_config(
        {key: entry for key, entry in loader["catalog"].items() if not key.startswith("_")}
    )
    results = ["data_card", "training_card", "training_table", "sample_grid", "metrics"]
    results += ["diagnostics", "report"]
    assert [name for name in catalog if str(shown_path(catalog, name)).startswith("memory:")] == (
        [name for name in catalog if name in results]
    )
