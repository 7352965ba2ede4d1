"""A sequential runner that does nothing twice: what was made the same way before is left as it is.

It decides unit by unit when a unit's turn comes, so that an input made again counts with its new
content: equal to the old one, it makes nothing stale.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from ddpm_kedro.content import remembering
from ddpm_kedro.datasets.local_entry import writing
from ddpm_kedro.datasets.place import Place, loaded_place, place_of
from ddpm_kedro.framework.making import Making, differences, making_of, orders_of, restarts_of
from ddpm_kedro.framework.record import Record, record_place, relative_path
from ddpm_kedro.framework.units import has_place, unlasting, units_of
from ddpm_kedro.locks import FileLock

LOGGER = logging.getLogger(__name__)

_KEPT = "kept"  # a node's tag: a change of code alone is no reason to run it
_SHOWN = 3  # reasons in a line


class SkippingRunner(SequentialRunner):
    """Runs the units of a pipeline that nothing on the disk stands for, one after another.

    A unit is skipped where its record is of the same making and its outputs are, byte for byte,
    those of the record. One line a unit says what is done and why. `folder` is what a relative
    `data_root` starts from, where the hashes of files are remembered.
    """

    def __init__(self, is_async: bool = False, folder: Path | None = None) -> None:
        super().__init__(is_async=is_async)
        self._folder = folder or Path()

    def __str__(self) -> str:  # by these words Kedro-Viz knows a run whose nodes come in order
        kind = SequentialRunner
        return f"<{kind.__module__}.{kind.__qualname__} object that skips what is made>"

    @property
    def _logger(self) -> logging.Logger:
        return logging.getLogger(SequentialRunner.__module__)

    def run(self, *args: Any, only_missing_outputs: bool = False, **options: Any) -> dict[str, Any]:
        """As in Kedro; with `only_missing_outputs` no content is compared either."""
        if only_missing_outputs:
            plain = SequentialRunner(self._is_async)
            return plain.run(*args, only_missing_outputs=True, **options)
        return super().run(*args, **options)

    def _run(
        self, pipeline: Pipeline, catalog: Any, hook_manager: Any = None, run_id: str | None = None
    ) -> None:
        loads = Counter(name for node in pipeline.nodes for name in node.inputs)
        with self._hashes_remembered(catalog):
            for unit in units_of(pipeline, catalog):
                work = _Work(unit, catalog)
                if not work.is_done():
                    with work.recorded():
                        super()._run(unit, catalog, hook_manager, run_id)
                for node in unit.nodes:  # what later units need is kept; `super` sees one unit
                    self._release_datasets(node, catalog, loads, pipeline)

    def _suggest_resume_scenario(self, *_: Any) -> None:
        self._logger.warning("Repeat the command to go on: what is done will be skipped.")

    def _hashes_remembered(self, catalog: Any) -> contextlib.AbstractContextManager[None]:
        if "params:data_root" not in catalog:
            return contextlib.nullcontext()
        return remembering(self._folder / catalog.load("params:data_root") / ".hashes.json")


class _Work:
    """One unit when its turn has come."""

    def __init__(self, unit: Pipeline, catalog: Any) -> None:
        self._unit, self._catalog = unit, catalog
        self._nodes = [node.name for node in unit.nodes]
        self._name = ", ".join(self._nodes)
        made = (name for node in unit.nodes for name in node.outputs)
        self._placed = {name: catalog.get(name) for name in made if has_place(name, catalog)}
        self._place: Place | None = None  # of the record; None where none can speak for the unit
        self._making: Making | None = None  # before the work

    def is_done(self) -> bool:
        """Whether the unit is skipped; one line says since when, or why not. InputError where a
        source of images is not there."""
        reasons = self._reasons()
        if reasons:
            more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
            LOGGER.info("%s runs: %s%s", self._name, ", ".join(reasons[:_SHOWN]), more)
        return not reasons

    def _reasons(self) -> list[str]:
        """Why the unit runs; none where it is skipped."""
        if always := unlasting(self._unit, self._catalog):
            return [always]
        self._place = record_place(self._nodes[0], place_of(next(iter(self._placed.values()))))
        self._making = making_of(self._unit, self._catalog)
        if order := orders_of(self._unit, self._catalog):
            return [order]
        if self._making is None:
            return ["nobody can tell whether an input of it has changed"]
        record = Record.read(self._place, self._nodes)
        if record is None:
            is_new = len(list(self._altered(None))) == len(self._placed)
            return ["it has no outputs yet" if is_new else "no record says what made its outputs"]
        changed = differences(record.making, self._making)
        reasons = changed + list(self._altered(record.outputs))
        if not reasons:
            LOGGER.info("%s: nothing has changed since %s", self._name, record.since)
        elif self._is_kept() and self._is_code_alone(record.making) and reasons == changed:
            modules = ", ".join(word.removeprefix("code of ") for word in changed[:_SHOWN])
            orders = (f"{key}=true" for key, _ in restarts_of(self._unit, self._catalog))
            again = next(orders, "force=true")
            LOGGER.info("%s: kept, code differs (%s); %s trains again", self._name, modules, again)
            return []
        return reasons

    def _is_kept(self) -> bool:
        return all(_KEPT in node.tags for node in self._unit.nodes)

    def _is_code_alone(self, earlier: Making) -> bool:
        return replace(earlier, code=self._making.code) == self._making

    def _altered(self, outputs: Mapping[str, Mapping[str, str]] | None) -> Iterator[str]:
        """In words, the outputs that are missing, or others than `outputs` says."""
        for name, dataset in self._placed.items():
            place = loaded_place(dataset)
            sha256 = place and place.sha256()
            shown = posixpath.basename(place_of(dataset).path)
            if sha256 is None:
                yield f"its output {shown} is missing"
            elif outputs is not None and outputs.get(name, {}).get("sha256") != sha256:
                yield f"its output {shown} was altered"

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Do the work inside: under a lock, the old record removed before, a new one written when
        it ends well. InputError where another process does it, or the folder is not writable."""
        if self._place is None:
            yield
            return
        with contextlib.ExitStack() as held:
            with writing(self._place.path, self._place.files is None):
                if self._place.files is None:
                    lock = Path(self._place.path).with_name(f".{self._nodes[0]}.lock")
                    lock.parent.mkdir(parents=True, exist_ok=True)
                    held.enter_context(FileLock(lock))
                self._place.remove()
            started = time.monotonic()
            yield
            seconds = time.monotonic() - started
            finished = all(getattr(each, "is_finished", True) for each in self._placed.values())
            if not finished or self._making is None:
                return
            if making_of(self._unit, self._catalog) != self._making:
                LOGGER.warning("%s: an input was altered meanwhile; it runs again", self._name)
                return
            record = Record.of(self._nodes, seconds, self._making, self._outputs())
            with writing(self._place.path, self._place.files is None):
                record.write(self._place)

    def _outputs(self) -> dict[str, dict[str, str]]:
        outputs = {}
        for name, dataset in self._placed.items():
            place = loaded_place(dataset)
            outputs[name] = {
                "path": relative_path(place, self._place),
                "sha256": place.sha256(),
            }
        return outputs
