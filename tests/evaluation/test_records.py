"""What made a run's outputs is read from the records beside them, and stands in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_report import rendered

from ddpm_kedro.content import content_hash
from ddpm_kedro.evaluation.records import Records


def record(folder: Path, node: str, output: str, made_at: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / output).write_text(f"by {node}")
    outputs = {output: {"path": output, "sha256": content_hash(folder / output)}}
    said = {"nodes": [node], "made_at": made_at, "seconds": 1.5, "outputs": outputs}
    path = folder / f"{node}.made.json"
    path.write_text(json.dumps({**said, "parameters": {}, "code": {"torch": "2.15"}}))
    return path


def nodes(records: list[dict]) -> list[str]:
    return [name for each in records for name in each["nodes"]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    record(tmp_path / "08_reporting", "evaluate", "metrics.json", "2026-11-26T02:10:00+00:00")
    record(tmp_path / "07_model_output", "sample", "samples.npy", "2026-11-26T02:00:00+00:00")
    return tmp_path


def test_records_come_in_the_order_in_which_outputs_were_made(run):
    assert nodes(Records(run).read()) == nodes(Records(run).current()) == ["sample", "evaluate"]


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"nodes": ["sample"]}'])
def test_a_torn_record_counts_as_none(run, text):
    (run / "07_model_output/sample.made.json").write_text(text)
    assert nodes(Records(run).read()) == ["evaluate"]


def test_a_record_does_not_speak_for_what_is_there_now_if_that_was_altered_or_is_gone(run):
    (run / "07_model_output/samples.npy").write_text("by hand")
    assert nodes(Records(run).current()) == ["evaluate"]
    (run / "07_model_output/samples.npy").unlink()
    assert nodes(Records(run).current()) == ["evaluate"]
    assert nodes(Records(run).read()) == ["sample", "evaluate"]


def test_an_older_run_has_none(tmp_path):
    assert Records(tmp_path).read() == Records(tmp_path / "nowhere").current() == []


def test_the_report_says_what_made_each_output(run):
    page = rendered(records=Records(run).current())
    assert page.index("by sample at 2026-11-26 02:00 UTC") < page.index("by evaluate at")
    assert content_hash(run / "07_model_output/samples.npy")[:12] in page
    assert "How it was made" not in rendered()
