"""One line for each node of any pipeline: how long it took and where its outputs went."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner, ThreadRunner

from ddpm_kedro.datasets.report_files import TextFile
from ddpm_kedro.hooks.stage_lines import StageLines


@pytest.fixture
def lines_of(tmp_path, monkeypatch, caplog):
    """What is said of a run of nodes, where `inside` and `outside` are files."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    caplog.set_level(logging.INFO, logger="ddpm_kedro")

    def run(*nodes, runner=None) -> list[str]:
        catalog = DataCatalog(
            {
                "inside": TextFile(filepath=str(project / "data/inside.txt")),
                "outside": TextFile(filepath=str(tmp_path / "outside.txt")),
                "memory": MemoryDataset(),
            }
        )
        pipeline, manager = Pipeline(list(nodes)), _create_hook_manager()
        manager.register(StageLines())
        manager.hook.before_pipeline_run(run_params={}, pipeline=pipeline, catalog=catalog)
        (runner or SequentialRunner()).run(pipeline, catalog, manager)
        manager.hook.after_pipeline_run(
            run_params={}, run_result={}, pipeline=pipeline, catalog=catalog
        )
        return [
            record.getMessage() for record in caplog.records if record.name.startswith("ddpm_kedro")
        ]

    return run


def test_a_node_is_one_line_with_its_files_in_order(lines_of, tmp_path):
    (line,) = lines_of(
        node(lambda: ("a", "b", "c"), None, ["inside", "memory", "outside"], name="write_both")
    )
    outside = re.escape(str(tmp_path / "outside.txt"))
    assert re.fullmatch(rf"write_both: \d\.\d s -> data/inside\.txt, {outside}", line)


def test_nodes_without_files_or_without_outputs_are_told_too(lines_of):
    lines = lines_of(
        node(lambda: "a", None, "memory", name="make"),
        node(lambda text: None, "memory", None, name="use"),
    )
    assert [line.split(":")[0] for line in lines] == ["make", "use"]
    assert not any("->" in line for line in lines)


def test_a_generator_is_told_once_when_all_is_saved(lines_of):
    def parts() -> Iterator[str]:
        yield from "abc"

    (line,) = lines_of(node(parts, None, "inside", name="write_parts"))
    assert line.startswith("write_parts: ")
    assert line.endswith("-> data/inside.txt")


def test_threads_tell_each_node_once(lines_of):
    lines = lines_of(
        node(lambda: "a", None, "inside", name="first"),
        node(lambda: "b", None, "outside", name="second"),
        runner=ThreadRunner(max_workers=2),
    )
    assert sorted(line.split(":")[0] for line in lines) == ["first", "second"]


def test_what_failed_to_save_is_not_told_as_done(lines_of, tmp_path):
    (tmp_path / "project/data").write_text("a file in the folder's way")
    with pytest.raises(Exception, match=r"inside\.txt|data"):
        lines_of(node(lambda: "a", None, "inside", name="write"))
    assert lines_of() == []
