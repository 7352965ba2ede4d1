"""What makes outputs: facts of inputs, parameters and code, and how they are said to differ."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import pytest
from kedro.io import CachedDataset, DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro_datasets.json import JSONDataset
from kedro_datasets.partitions import PartitionedDataset
from kedro_datasets.text import TextDataset

from ddpm_kedro.content import content_hash
from ddpm_kedro.datasets.handle import Handle
from ddpm_kedro.datasets.training_results import JSONLines, ModelFile
from ddpm_kedro.framework.making import (
    Making,
    code_of,
    differences,
    facts_of,
    inputs_of,
    making_of,
    orders_of,
    parameters_of,
)


@dataclass(frozen=True)
class Inner:
    rate: float
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    restart: bool
    inner: Inner


class Source:
    """Stands for a source of images."""

    def facts(self) -> dict:
        return {"sha256": "abc", "sizes": (1, 2)}


def work(*_) -> int:
    return 1


def pipeline(inputs, outputs="out") -> Pipeline:
    return Pipeline([node(work, inputs, outputs, name="work")])


def catalog(**entries) -> DataCatalog:
    made = DataCatalog({"out": TextDataset(filepath="out.txt")})
    for name, value in entries.items():
        made[name.replace("params_", "params:")] = value
    return made


# Facts


def test_any_file_or_folder_is_its_content(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("1")
    expected = {"sha256": content_hash(path)}
    assert facts_of(JSONDataset(filepath=str(path))) == expected
    assert facts_of(CachedDataset(JSONDataset(filepath=str(path)))) == expected
    partitions = PartitionedDataset(path=str(tmp_path), dataset="json.JSONDataset")
    assert facts_of(partitions) == {"sha256": content_hash(tmp_path)}


def test_a_file_elsewhere_has_the_hash_that_it_would_have_here(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("1")
    there = JSONDataset(filepath=f"memory://{tmp_path}/a.json")
    assert facts_of(there) is None
    there._fs.pipe_file(f"{tmp_path}/a.json", b"1")
    assert facts_of(there) == {"sha256": content_hash(path)}
    folder = PartitionedDataset(path=f"memory://{tmp_path}", dataset="json.JSONDataset")
    before = facts_of(folder)
    there._fs.pipe_file(f"{tmp_path}/a.json", b"2")
    assert facts_of(folder) not in (before, None)


@pytest.mark.parametrize(
    "dataset",
    [
        MemoryDataset(1),
        JSONDataset(filepath="/nowhere/a.json"),
    ],
)
def test_nobody_can_tell_of_memory_and_of_what_is_not_there(dataset):
    assert facts_of(dataset) is None


def test_a_query_in_a_file_is_not_what_it_asks_for(tmp_path):
    class SQLQuery(TextDataset):
        create_connection = None

    (tmp_path / "a.sql").write_text("select 1")
    assert facts_of(TextDataset(filepath=str(tmp_path / "a.sql"))) is not None
    assert facts_of(SQLQuery(filepath=str(tmp_path / "a.sql"))) is None


def test_an_absent_file_of_ours_is_a_fact(tmp_path):
    assert facts_of(JSONLines(filepath=str(tmp_path / "log.jsonl"))) == {"absent": True}


def test_handles_are_what_their_object_says_and_stores_are_places_to_work_in(tmp_path):
    assert facts_of(Handle(of=f"{__name__}.Source")) == {"sha256": "abc", "sizes": [1, 2]}
    assert facts_of(Handle(of="nowhere.Store", path=str(tmp_path))) == {}  # not even imported


# Parameters


def test_typed_and_plain_parameters_are_the_same(tmp_path):
    tree = {"restart": True, "inner": {"rate": 1, "sizes": [1, 2]}}
    typed = catalog(params_x=Settings(restart=False, inner=Inner(1.0, (1, 2))))
    found = parameters_of(pipeline("params:x"), typed)
    assert found["params:x"] == {"inner": {"rate": 1, "sizes": [1, 2]}}
    assert parameters_of(pipeline("params:x"), catalog(params_x=tree)) == found


def test_orders_are_no_part_of_what_is_made():
    taken = pipeline(["params:x", "params:force"])
    entries = catalog(params_x={"restart": True, "deep": {"restart": 1}}, params_force=True)
    found = parameters_of(taken, entries)
    assert found["params:x"] == {"deep": {"restart": 1}}
    assert "params:force" not in found
    assert orders_of(taken, entries) == {"x.restart": True, "force": True}
    whole = catalog(parameters={"force": True, "x": {"restart": True, "a": 1}})
    assert parameters_of(pipeline("parameters"), whole)["parameters"] == {"x": {"a": 1}}


def test_what_a_dataset_makes_of_its_content_is_a_parameter_and_its_place_is_not(tmp_path):
    def options(**given):
        return parameters_of(pipeline("model"), catalog(model=ModelFile(**given)))["catalog:model"]

    raw = options(filepath=str(tmp_path / "a"), weights="raw", written_by="training")
    assert raw == options(filepath="/elsewhere", weights="raw", metadata={"x": 1})
    assert raw["weights"] == "raw"
    assert raw != options(filepath="/elsewhere", weights="ema")


def test_which_weights_are_loaded_is_nothing_to_the_node_that_saves_them(tmp_path):
    def made(weights):
        model = ModelFile(filepath=str(tmp_path / "a"), weights=weights)
        return parameters_of(Pipeline([node(len, "x", "model")]), catalog(model=model))

    assert made("raw") == made("ema")


def test_how_a_function_is_used_counts():
    def found(inputs, function=work):
        wired = Pipeline([node(function, inputs, "out", name="work")])
        entries = catalog(a=TextDataset(filepath="a"), b=TextDataset(filepath="b"))
        return parameters_of(wired, entries)

    assert found(["a", "b"]) == found(["a", "b"]) != found(["b", "a"])
    one, two = (functools.partial(work, number) for number in (1, 2))
    assert found("a", one) != found("a", two)


class Scale:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, value: float) -> float:
        return self.by * value

    def times(self, value: float) -> float:
        return self.by * value


def scaling(by: float, default: float = 0.0):
    def scaled(value: float, offset: float = default) -> float:
        return by * value + offset

    return scaled


def brought(function) -> dict:
    entries = catalog(a=TextDataset(filepath="a"))
    return parameters_of(Pipeline([node(function, "a", "out", name="n")]), entries)


def test_what_a_function_brings_along_counts():
    """Two of each: what they do differs, and no line of their code."""
    makers = {
        "callable": Scale,
        "method": lambda by: Scale(by).times,
        "closure": scaling,
        "default": lambda by: scaling(1.0, by),
        "held by another": lambda by: functools.partial(work, scaling(by)),
        "lambda": lambda by: lambda value: by * value,
    }
    for name, make in makers.items():
        assert brought(make(1.0)) == brought(make(1.0)), name
        assert brought(make(1.0)) != brought(make(2.0)), name
    types = json.dumps(brought(functools.partial(work, Scale.times)))
    assert f"{__name__}.Scale.times" in types  # so that its code is asked for


def test_a_function_that_calls_itself_is_described():
    def endless(value):
        return endless(value)

    assert brought(endless) == brought(endless)


def test_true_is_not_1_and_nan_is_nan():
    def made(value):
        return Making({}, {"params:x": value}, {})

    assert differences(made(1), made(True))
    assert differences(made({"a": [0]}), made({"a": [False]}))
    assert not differences(made({"a": float("nan")}), made({"a": float("nan")}))


def test_a_file_that_a_parameter_names_is_its_content_too(tmp_path):
    path = tmp_path / "model.safetensors"

    def found(content: str):
        path.write_text(content)
        entries = catalog(params_x={"init": {"from": str(path)}, "nowhere": "auto", "n": 1})
        return parameters_of(pipeline("params:x"), entries)

    assert found("one") == found("one") != found("two")
    one, two = (Making({}, found(content), {}) for content in ("one", "two"))
    assert differences(one, two) == ["a file that params:x names changed"]
    assert found("one")["files:params:x"] == {"init.from": content_hash(path)}


def test_odd_parameters_are_told_apart_too():
    import datetime

    def found(day: int):
        entries = catalog(params_x={"day": datetime.date(2026, 1, day)})
        return parameters_of(pipeline("params:x"), entries)

    assert found(1) == found(1) != found(2)


# Code


def test_functions_and_every_type_named_are_asked_for(monkeypatch):
    monkeypatch.setattr("ddpm_kedro.framework.making.code_digest", list)
    nodes = [
        node(functools.partial(work, 1), "a", "b", name="partial"),
        node(json.dumps, "b", "c", name="other"),
    ]
    trees = [{"x": [{"type": "torch.optim.Adam"}]}, {"type": "short"}]
    assert code_of(Pipeline(nodes), trees) == ["json.dumps", f"{__name__}.work", "torch.optim.Adam"]


# A whole stage


def test_a_stage_is_made_from_what_no_node_in_it_makes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    stage = Pipeline(
        [
            node(work, ["a", "params:x"], "b", name="first"),
            node(work, ["a", "b"], "out", name="second"),
        ]
    )
    entries = catalog(a=TextDataset(filepath=str(path)), params_x=1)
    entries["b"] = TextDataset(filepath=str(tmp_path / "b.txt"))
    making = making_of(stage, entries)
    assert making.inputs == {"a": {"sha256": content_hash(path)}}
    assert making.parameters["params:x"] == 1
    assert {"catalog:a", "catalog:b", "node:first"} < making.parameters.keys()
    assert __name__.rpartition(".")[2] in " ".join(making.code)
    path.unlink()
    assert making_of(stage, entries) is inputs_of(stage, entries) is None
    assert parameters_of(stage, entries) == making.parameters


# Differences


def test_differences_are_said_in_words():
    earlier = Making(
        {"a": {"sha256": "1"}, "b": {"absent": True}, "c": {"sha256": "1"}},
        {
            "params:x": {"n": 512, "optimizer": {"lr": 1, "type": "Adam"}},
            "params:y": 1,
            "z": 1,
            "u": 1,
        },
        {"m": "1", "n": "1"},
    )
    now = Making(
        {"a": {"sha256": "2"}, "b": {"sha256": "1"}, "c": {"absent": True}},
        {
            "params:x": {"n": 64, "optimizer": {"lr": 2, "type": "SGD"}},
            "params:y": 2,
            "z": "1",
            "v": 2,
        },
        {"m": "2", "n": "1"},
    )
    assert differences(earlier, earlier) == []
    assert differences(earlier, now) == [
        "params:x optimizer.type Adam -> SGD",
        "params:x n 512 -> 64",
        "params:x optimizer.lr 1 -> 2",
        "params:y 1 -> 2",
        "u is gone",
        "v is new",
        "z changed",
        "input a changed",
        "input b is new",
        "input c is missing",
        "code of m",
    ]
