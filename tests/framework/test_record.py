"""The record beside outputs."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest

from ddpm_kedro.datasets.place import Place
from ddpm_kedro.framework.making import Making
from ddpm_kedro.framework.record import Record

MAKING = Making({"a": {"sha256": "1"}}, {"params:x": {"n": 1}}, {"m": "2"})


def record(**changes) -> Record:
    outputs = {"out": {"path": "out.txt", "sha256": "3"}}
    return Record(
        **{"nodes": ["n"], "seconds": 1.5, "making": MAKING, "outputs": outputs} | changes
    )


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path) -> Place:
    if request.param == "local":
        return Place(str(tmp_path / "n.made.json"))
    import fsspec

    return Place(f"{tmp_path}/n.made.json", fsspec.filesystem("memory"))


def test_it_is_read_as_it_was_written(place):
    assert Record.read(place, ["n"]) is None
    record().write(place)
    assert Record.read(place, ["n"]) == record(made_at=Record.read(place, ["n"]).made_at)
    place.remove()
    place.remove()
    assert Record.read(place, ["n"]) is None


def test_its_form_is_one_that_others_read(tmp_path):
    place = Place(str(tmp_path / "n.made.json"))
    record().write(place)
    found = json.loads((tmp_path / "n.made.json").read_text())
    assert {key: found[key] for key in ("version", "nodes", "inputs", "parameters", "code")} == {
        "version": 1,
        "nodes": ["n"],
        "inputs": MAKING.inputs,
        "parameters": MAKING.parameters,
        "code": MAKING.code,
    }
    assert found["outputs"] == {"out": {"path": "out.txt", "sha256": "3"}}
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found["made_at"])).total_seconds() < 60
    assert set(found["made_with"]) == {"python", "platform", "torch"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"version": 1}',
        "[" * 100_000,
        '{"version": 2, "nodes": ["n"], "seconds": 1, "inputs": {}, "parameters": {}, "code": {}, '
        '"outputs": {}, "made_at": "2026-11-26T02:10:33+00:00"}',
    ],
)
def test_what_is_no_whole_record_of_this_version_is_none(tmp_path, text):
    (tmp_path / "n.made.json").write_text(text)
    assert Record.read(Place(str(tmp_path / "n.made.json")), ["n"]) is None


def test_when_it_was_made_is_short():
    assert re.fullmatch(r"\d+ \w+ \d\d:\d\d", record().since)
    assert record(made_at="2001-02-13T12:00:00+00:00").since == "13 Feb 2001"
