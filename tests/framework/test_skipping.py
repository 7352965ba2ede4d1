"""What was made the same way before is not made again, and everything else is."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
import types
from pathlib import Path

import pytest
from kedro.io import CachedDataset, DataCatalog, MemoryDataset
from kedro.io.core import Version
from kedro.pipeline import Pipeline, node
from kedro.runner import ThreadRunner
from kedro_datasets.json import JSONDataset
from kedro_datasets.text import TextDataset

from ddpm_kedro.errors import InputError
from ddpm_kedro.framework import skipping
from ddpm_kedro.framework.record import Record
from ddpm_kedro.framework.skipping import SkippingRunner
from ddpm_kedro.locks import FileLock


class Bench:
    """A folder, nodes that note that they ran, and a digest of code that a test can change."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.ran: list[str] = []
        self.code: dict[str, str] = {}
        self.datasets: dict = {}
        self.parameters: dict = {"data_root": str(folder)}
        monkeypatch.setattr("ddpm_kedro.framework.making.code_digest", self._digest)

    def __repr__(self) -> str:  # part of what the functions hold
        return "bench"

    def _digest(self, roots) -> dict[str, str]:
        return {root: self.code.get(root, "old") for root in roots}

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def node(
        self, name: str, inputs, outputs, work=lambda *texts: "+".join(map(str, texts)), **more
    ):
        def function(*given):
            self.ran.append(name)
            return work(*given)

        function.__qualname__ = name
        for dataset in [*([inputs] if isinstance(inputs, str) else inputs), outputs]:
            if dataset and not dataset.startswith(("params:", "memory")):
                self.datasets.setdefault(dataset, TextDataset(filepath=str(self.file(dataset))))
        return node(function, inputs, outputs, name=name, **more)

    def catalog(self) -> DataCatalog:
        catalog = DataCatalog(dict(self.datasets))
        for name, value in self.parameters.items():
            catalog[f"params:{name}"] = value
        return catalog

    def run(self, *nodes, runner=None, **options) -> list[str]:
        """The nodes that this run ran."""
        self.ran.clear()
        self.result = (runner or SkippingRunner()).run(Pipeline(nodes), self.catalog(), **options)
        return list(self.ran)


@pytest.fixture
def bench(tmp_path, monkeypatch, caplog) -> Bench:
    caplog.set_level(logging.INFO, logger="ddpm_kedro")
    (tmp_path / "raw.txt").write_text("raw")
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def chain(bench):
    """raw -> a -> b, each with a parameter of its own."""
    bench.parameters |= {"x": {"rate": 1, "restart": False}, "y": 1}
    return [
        bench.node("first", ["raw", "params:x"], "a"),
        bench.node("second", ["a", "params:y"], "b"),
    ]


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "ddpm_kedro" in record.name]


# The law: against a definition by brute force

KINDS = ("nothing", "time", "raw", "alter", "delete", "parameter", "code")


def units_by_brute_force(nodes: list, memory: set[str]) -> list[list]:
    """Cut after node k unless a memory dataset passes from a node up to k to one behind it."""
    spans = [
        (i, j)
        for i, giver in enumerate(nodes)
        for j, taker in enumerate(nodes)
        if set(giver.outputs) & set(taker.inputs) & memory
    ]
    units, unit = [], []
    for k, each in enumerate(nodes):
        unit.append(each)
        if not any(i <= k < j for i, j in spans):
            units.append(unit)
            unit = []
    return units


def random_nodes(bench: Bench, rng: random.Random) -> list:
    """Each takes one to three of what is there; some results are short, so that changes stop there;
    some pass through memory."""
    there, nodes = ["raw", "raw2"], []
    for number in range(rng.randint(3, 7)):
        inputs = rng.sample(there, min(len(there), rng.randint(1, 3)))
        output = f"memory{number}" if rng.random() < 0.3 else f"file{number}"
        short = rng.random() < 0.4
        bench.parameters[f"p{number}"] = 0
        nodes.append(
            bench.node(
                f"node{number}",
                [*inputs, f"params:p{number}"],
                output,
                lambda *texts, short=short: str(
                    len("".join(map(str, texts))) % 2 if short else texts
                ),
            )
        )
        there.append(output)
    return nodes


def touch(bench: Bench, nodes: list, rng: random.Random, count: int) -> None:
    kind = rng.choice(KINDS)
    chosen = rng.choice(nodes)
    made = [bench.file(name) for each in nodes for name in each.outputs if "memory" not in name]
    raw = bench.file(rng.choice(["raw", "raw2"]))
    if kind == "time":
        os.utime(rng.choice([raw, *made]), (1e9 + count, 1e9 + count))
    elif kind == "raw":
        raw.write_text(f"raw {count}")
    elif kind in ("alter", "delete") and made:
        path = rng.choice(made)
        path.write_text(f"altered {count}") if kind == "alter" else path.unlink(missing_ok=True)
    elif kind == "parameter":
        bench.parameters[chosen.name.replace("node", "p")] = rng.randint(0, 3)
    elif kind == "code":
        bench.code[f"test_skipping.{chosen.name}"] = rng.choice(["old", "new"])


@pytest.mark.parametrize("seed", range(12))
def test_exactly_what_differs_is_made_again(bench, seed):
    rng = random.Random(seed)
    bench.file("raw2").write_text("raw2")
    nodes = random_nodes(bench, rng)
    memory = {name for each in nodes for name in each.outputs if "memory" in name}
    known: dict = {}  # by unit: what made its outputs, and what they were

    def text_of(name: str):
        return bench.file(name).read_text() if bench.file(name).exists() else None

    for count in range(8):
        for _ in range(rng.randint(0, 2) if count else 0):
            touch(bench, nodes, rng, count)
        pipeline, expected = Pipeline(nodes), []
        before = {each.stem: each.read_text() for each in bench.folder.glob("*.txt")}
        ran = bench.run(*nodes)
        # Replayed: the files as they were before, and after a unit as its run left them.
        texts = dict(before)
        for unit in units_by_brute_force(pipeline.nodes, memory):
            part = Pipeline(unit)
            files = sorted(name for name in part.all_outputs() if name not in memory)
            made_from = (
                sorted((name, texts.get(name)) for name in part.inputs() if "params" not in name),
                [bench.parameters[each.name.replace("node", "p")] for each in unit],
                [bench.code.get(f"test_skipping.{each.name}", "old") for each in unit],
            )
            names = tuple(each.name for each in unit)
            free = bool(part.outputs() & memory)
            stands = (made_from, {name: texts.get(name) for name in files})
            if free or not files or known.get(names) != stands or None in stands[1].values():
                expected += names
                texts |= {name: text_of(name) for name in files}
            known[names] = (made_from, {name: texts.get(name) for name in files})
        assert sorted(ran) == sorted(expected), f"run {count}"


# What counts, and what does not


def test_the_second_run_makes_nothing_and_says_since_when(bench, chain, caplog):
    assert bench.run(*chain) == ["first", "second"]
    caplog.clear()
    assert bench.run(*chain) == []
    assert bench.file("b").read_text() == "raw+{'rate': 1, 'restart': False}+1"
    told = lines(caplog)
    assert len(told) == 2
    assert told[0].startswith("first: nothing has changed since ")
    assert set(bench.result) == {"b"}


@pytest.mark.parametrize("order", ["force", "restart"])
def test_an_order_runs_the_node_each_time_and_makes_nothing_stale(bench, chain, order, caplog):
    bench.run(*chain)
    if order == "force":
        bench.parameters["force"] = True
    else:
        bench.parameters["x"] = {"rate": 1, "restart": True}
    wanted = ["first", "second"] if order == "force" else ["first"]
    chain[0] = bench.node("first", ["raw", "params:x"], "a", lambda raw, x: "same")
    chain[1] = bench.node("second", ["a", "params:y"], "b", lambda a, y: "same")
    bench.run(*chain)
    assert bench.run(*chain) == wanted
    assert f"first runs: {'force' if order == 'force' else 'x.restart'}=true" in lines(caplog)
    bench.parameters |= {"force": False, "x": {"rate": 1, "restart": False}}
    assert bench.run(*chain) == []


def test_a_kept_node_runs_for_all_but_code(bench, chain, caplog):
    chain[0] = bench.node("first", ["raw", "params:x"], "a", tags="kept")
    bench.run(*chain)
    bench.code = {"test_skipping.first": "new", "test_skipping.second": "new"}
    assert bench.run(*chain) == ["second"]
    kept = "first: kept, code differs (test_skipping.first); x.restart=true trains again"
    assert kept in lines(caplog)
    bench.file("a").write_text("altered")
    assert bench.run(*chain) == ["first"]
    bench.code = {}
    bench.parameters["x"] = {"rate": 2, "restart": False}
    assert bench.run(*chain) == ["first", "second"]


def test_why_a_node_runs_is_one_line(bench, chain, caplog):
    bench.run(*chain)
    assert "first runs: it has no outputs yet" in lines(caplog)
    (bench.folder / "first.made.json").unlink()
    bench.run(*chain)
    assert "first runs: no record says what made its outputs" in lines(caplog)
    caplog.clear()
    bench.parameters["x"] = {"rate": 2, "restart": False}
    bench.file("raw").write_text("other")
    bench.code = {"test_skipping.first": "new"}
    bench.file("a").unlink()
    bench.file("b").write_text("altered")
    bench.run(*chain)
    assert lines(caplog) == [
        "first runs: params:x rate 1 -> 2, input raw changed, code of test_skipping.first "
        "and 1 more",
        "second runs: input a changed, its output b.txt was altered",
    ]


def test_what_a_dataset_is_asked_to_do_counts(bench):
    made = bench.node("first", "raw", "a", lambda raw: {"raw": raw})
    for indent in (1, 2):
        path = str(bench.file("a"))
        bench.datasets["a"] = JSONDataset(filepath=path, save_args={"indent": indent})
        assert bench.run(made) == ["first"]
        assert bench.run(made) == []


@pytest.mark.parametrize(
    ("inputs", "output"), [("raw", "memory"), ("raw", None), ("memory_in", "a")]
)
def test_what_no_record_can_stand_for_runs_always(bench, inputs, output):
    bench.datasets["memory_in"] = MemoryDataset("given")
    made = bench.node("first", inputs, output)
    if output is None:
        made = bench.node("first", inputs, None, lambda raw: None)
    assert bench.run(made) == ["first"]
    assert bench.run(made) == ["first"]
    if output == "memory":
        assert bench.result["memory"].load() == "raw"


def test_a_function_whose_code_nobody_can_read_runs_always(bench):
    made = bench.node("first", "raw", "a")
    made.func.__module__ = "__main__"
    assert bench.run(made) == ["first"]
    assert bench.run(made) == ["first"]


def test_a_node_that_confirms_runs_always(bench):
    made = bench.node("first", "raw", "a", confirms="raw")
    bench.datasets["raw"].confirm = lambda: None
    assert bench.run(made) == ["first"]
    assert bench.run(made) == ["first"]


def test_nodes_joined_through_memory_are_one(bench, caplog):
    nodes = [
        bench.node("first", "raw", "memory"),
        bench.node("middle", "raw", "c"),
        bench.node("second", "memory", "b"),
    ]
    assert bench.run(*nodes) == ["first", "middle", "second"]
    assert bench.run(*nodes) == []
    bench.file("c").unlink()
    assert bench.run(*nodes) == ["first", "middle", "second"]
    assert "first, middle, second run: its output c.txt is missing" in lines(caplog)
    # alone it gives its output to the caller, so nothing stands for it
    assert bench.run(nodes[0]) == ["first"]


def test_a_cached_dataset_lies_where_its_file_lies(bench):
    made = bench.node("first", "raw", "a")
    bench.datasets["a"] = CachedDataset(TextDataset(filepath=str(bench.file("a"))))
    assert bench.run(made) == ["first"]
    assert bench.run(made) == []


def test_the_newest_version_counts(bench):
    nodes = [bench.node("first", "raw", "a"), bench.node("second", "a", "b")]

    def run(save: str, load: str | None = None) -> list[str]:
        path = str(bench.file("versioned"))
        bench.datasets["a"] = TextDataset(filepath=path, version=Version(load, save))
        return bench.run(*nodes)

    assert run("1") == ["first", "second"]
    assert run("2") == []
    bench.file("raw").write_text("other")
    assert run("3") == ["first", "second"]
    assert run("4") == []
    newest = bench.file("versioned") / "3" / "versioned.txt"
    newest.write_text("altered")
    assert run("5") == ["first"]  # what it makes is as before, so the second stays
    record = json.loads((bench.folder / "first.made.json").read_text())
    assert record["outputs"]["a"]["path"] == "versioned.txt/5/versioned.txt"


def test_files_elsewhere_count_as_those_here(bench):
    bench.datasets["a"] = JSONDataset(filepath=f"memory://{bench.folder}/a.json")
    nodes = [bench.node("first", "raw", "a"), bench.node("second", "a", "b")]
    assert bench.run(*nodes) == ["first", "second"]
    assert bench.run(*nodes) == []
    bench.datasets["a"].save("altered")
    assert bench.run(*nodes) == ["first"]


def test_patterns_of_the_catalog_count_too(bench):
    made = bench.node("first", "raw", "memory_like")
    entry = {"type": "text.TextDataset", "filepath": f"{bench.folder}/{{name}}.out"}
    for ran in (["first"], []):
        bench.ran.clear()
        catalog = DataCatalog.from_config({"memory_{name}": entry})
        catalog["raw"] = TextDataset(filepath=str(bench.file("raw")))
        SkippingRunner().run(Pipeline([made]), catalog)
        assert bench.ran == ran


def test_asynchronous_saving_is_recorded(bench, chain):
    assert bench.run(*chain, runner=SkippingRunner(is_async=True)) == ["first", "second"]
    assert bench.run(*chain) == []


def test_only_missing_outputs_looks_at_existence_alone(bench, chain):
    bench.run(*chain)
    bench.parameters["y"] = 2
    assert bench.run(*chain, only_missing_outputs=True) == []
    bench.file("b").unlink()
    assert bench.run(*chain, only_missing_outputs=True) == ["second"]


def test_another_runner_runs_everything_and_leaves_what_is_right(bench, chain):
    bench.run(*chain)
    assert sorted(bench.run(*chain, runner=ThreadRunner())) == ["first", "second"]
    assert bench.run(*chain) == []
    bench.parameters["y"] = 2
    bench.run(*chain, runner=ThreadRunner())
    assert bench.run(*chain) == ["second"]


def test_kedro_viz_knows_that_nodes_run_one_by_one():
    from kedro_viz.integrations.kedro.hooks_utils import is_sequential_runner

    assert is_sequential_runner({"runner": str(SkippingRunner())})


# When something goes wrong


def test_a_kill_between_outputs_and_record_makes_the_outputs_again(bench, chain, monkeypatch):
    bench.run(*chain)
    bench.parameters["x"] = {"rate": 2, "restart": False}

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(Record, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run(*chain)
    with monkeypatch.context() as during:
        during.setattr(Record, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.run(*chain)
    bench.parameters["x"] = {"rate": 1, "restart": False}
    assert bench.run(*chain) == ["first"]  # the second's record is of what it makes again


def test_what_was_ordered_anew_and_stopped_is_gone_on_with(bench, chain):
    bench.run(*chain)
    bench.parameters["x"] = {"rate": 1, "restart": True}
    with pytest.raises(ZeroDivisionError):
        bench.run(bench.node("first", ["raw", "params:x"], "a", lambda raw, x: 1 / 0), chain[1])
    bench.parameters["x"] = {"rate": 1, "restart": False}
    assert bench.run(*chain) == ["first"]


def test_a_node_that_fails_leaves_what_was_there(bench, chain):
    bench.run(*chain)
    bench.parameters["x"] = {"rate": 2, "restart": False}
    broken = bench.node("first", ["raw", "params:x"], "a", lambda raw, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.run(broken, chain[1])
    bench.parameters["x"] = {"rate": 1, "restart": False}
    assert bench.run(*chain) == []


def test_a_run_that_is_refused_leaves_the_record(bench, chain):
    def refuse(raw, x):
        raise InputError("no such x")

    bench.run(*chain)
    bench.parameters["x"] = {"rate": 2, "restart": False}
    with pytest.raises(InputError, match="no such x"):
        bench.run(bench.node("first", ["raw", "params:x"], "a", refuse), chain[1])
    bench.parameters["x"] = {"rate": 1, "restart": False}
    assert bench.run(*chain) == []


@pytest.mark.parametrize("change", ["torn", "version", "nodes", "list", "outputs", "made_at"])
def test_a_record_that_cannot_be_right_is_none(bench, chain, change):
    bench.run(*chain)
    path = bench.folder / "first.made.json"
    record = json.loads(path.read_text())
    other = {"version": 2, "nodes": ["other"], "outputs": {"a": 3}, "made_at": "yesterday"}
    text = {"torn": path.read_text()[:-20], "list": "[1]"}.get(change)
    path.write_text(text or json.dumps({**record, change: other[change]}))
    assert bench.run(*chain) == ["first"]
    assert json.loads(path.read_text())["version"] == 1


def test_what_is_not_finished_is_worked_on_again(bench, chain):
    bench.run(*chain)
    bench.datasets["a"].is_finished = False
    bench.parameters["x"] = {"rate": 2, "restart": False}
    assert bench.run(*chain) == ["first", "second"]
    assert not (bench.folder / "first.made.json").exists()
    assert bench.run(*chain) == ["first"]


def test_an_input_altered_meanwhile_leaves_no_record(bench, caplog):
    made = bench.node(
        "first", "raw", "a", lambda raw: bench.file("raw").write_text("later") and raw
    )
    assert bench.run(made) == ["first"]
    assert "first: an input was altered meanwhile; it will run again" in lines(caplog)
    assert bench.run(made) == ["first"]
    assert bench.run(made) == []


def test_code_edited_meanwhile_leaves_no_record(bench, chain, monkeypatch):
    monkeypatch.setattr(skipping, "_STARTED_AT", 0.0)
    monkeypatch.setattr(
        "ddpm_kedro.framework.making.code_digest", lambda roots: {"ddpm_kedro.errors": "same"}
    )
    bench.run(*chain)
    assert not list(bench.folder.glob("*.made.json"))


def test_code_from_a_clock_that_is_ahead_is_not_edited_meanwhile(
    bench, chain, tmp_path, monkeypatch
):
    (tmp_path / "ahead.py").write_text("")
    os.utime(tmp_path / "ahead.py", (later := time.time() + 1e6, later))
    module = types.SimpleNamespace(__file__=str(tmp_path / "ahead.py"))
    monkeypatch.setitem(sys.modules, "ahead", module)
    monkeypatch.setattr("ddpm_kedro.framework.making.code_digest", lambda roots: {"ahead": "same"})
    bench.run(*chain)
    assert bench.run(*chain) == []


def test_two_processes_do_not_do_the_same_work(bench, chain):
    with FileLock(bench.folder / ".first.lock"), pytest.raises(InputError, match="in use by"):
        bench.run(*chain)
    assert bench.ran == []
    bench.run(*chain)
    with FileLock(bench.folder / ".first.lock"):
        assert bench.run(*chain) == []  # what is skipped needs no lock


def test_a_place_that_cannot_be_written_is_told_before_the_work(bench):
    (bench.folder / "taken").write_text("a file")
    made = bench.node("first", "raw", "a")
    bench.datasets["a"] = TextDataset(filepath=str(bench.folder / "taken" / "a.txt"))
    with pytest.raises(InputError, match=r"cannot write .*first\.made\.json"):
        bench.run(made)
    assert bench.ran == []
