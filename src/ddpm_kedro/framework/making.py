"""What makes the outputs of nodes: the contents of their inputs, their parameters, their code."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kedro.io.core import is_parameter
from kedro.pipeline import Pipeline

from ddpm_kedro.datasets.handle import Handle
from ddpm_kedro.datasets.place import loaded_place
from ddpm_kedro.framework.code_digest import code_digest
from ddpm_kedro.plain import canonical, plain
from ddpm_kedro.training.store.fingerprint import differences as changed_values

_COMMANDS = ("force", "restart")  # say what to do now, not what is made
_ABSENT = {"absent": True}
# What a dataset is given beside what shapes its content
_NOT_SHAPING = {"filepath", "path", "version", "credentials", "metadata", "written_by", "fs_args"}
_NOT_SHAPING |= {"required"}


@dataclass(frozen=True)
class Making:
    """What makes the outputs of a unit or a stage, in plain data: where it is equal, they are.

    `inputs` are facts of contents by dataset, `parameters` canonical values by `params:` name and
    the options of datasets by `catalog:` name, `code` what `code_digest` gives.
    """

    inputs: dict[str, Any]
    parameters: dict[str, Any]
    code: dict[str, str]


def making_of(pipeline: Pipeline, catalog: Any) -> Making | None:
    """The making of a node, a unit, or a stage of several nodes: then its inputs are those that no
    node in it makes. None where nobody can tell the content of an input, or a parameter is no plain
    value. A missing file is a fact too; InputError where a source of images is not there."""
    inputs = {}
    for name in sorted(pipeline.inputs()):
        if is_parameter(name):
            continue
        facts = facts_of(catalog.get(name, fallback_to_runtime_pattern=True))
        if facts is None:
            return None
        if facts:
            inputs[name] = facts
    parameters = parameters_of(pipeline, catalog)
    if parameters is None:
        return None
    return Making(inputs, parameters, code_of(pipeline, [parameters, inputs]))


def facts_of(dataset: Any) -> dict[str, Any] | None:
    """What a dataset's content is: `{"sha256": ...}` of its file or folder, more where its class
    has a method `facts`; nothing for a handle that is a place to work in. None where nobody can
    tell, `{"absent": True}` for a dataset of this project without a file."""
    dataset = getattr(dataset, "_dataset", dataset)  # what a CachedDataset holds
    if isinstance(dataset, Handle):
        return _facts_of_handle(dataset)
    if hasattr(dataset, "facts"):
        return dataset.facts() or dict(_ABSENT)
    place = loaded_place(dataset)
    sha256 = place and place.sha256()
    return None if sha256 is None else {"sha256": sha256}


def _facts_of_handle(handle: Handle) -> dict[str, Any] | None:
    if handle._path is not None:  # a store: importing its class may take seconds
        return {}
    facts = getattr(handle.load(), "facts", dict)
    return plain(facts())


def parameters_of(pipeline: Pipeline, catalog: Any) -> dict[str, Any] | None:
    """The part `parameters` of a making, for which nothing on the disk is looked at; None where a
    parameter is no plain value."""
    values: dict[str, Any] = {}
    for name in sorted(pipeline.datasets()):
        if not is_parameter(name):
            dataset = catalog.get(name, fallback_to_runtime_pattern=True)
            values[f"catalog:{name}"] = _options_of(dataset)
        elif name != "params:force":
            try:
                tree = canonical(_tree(catalog.load(name)))
                if name == "parameters":
                    tree = {key: _without_commands(value) for key, value in tree.items()}
                values[name] = _without_commands(tree)
            except ValueError:
                return None
    return values


def code_of(pipeline: Pipeline, trees: Iterable[Any] = ()) -> dict[str, str]:
    """The part `code` of a making: of the nodes' functions and of each `type: dotted.path` found in
    `trees`, such as what `parameters_of` gives; nothing is imported for it."""
    roots = {_dotted(node.func) for node in pipeline.nodes}
    roots |= {path for tree in trees for path in _types(tree)}
    return code_digest(sorted(roots))


def orders_of(pipeline: Pipeline, catalog: Any) -> str | None:
    """Which parameter orders that the nodes run, whatever was made before: `force=true`, or the
    `restart` at the top of a parameter of theirs; None where none does."""
    if "params:force" in catalog and catalog.load("params:force"):
        return "force=true"
    return next((f"{key}=true" for key, value in restarts_of(pipeline, catalog) if value), None)


def restarts_of(pipeline: Pipeline, catalog: Any) -> Iterator[tuple[str, Any]]:
    """The keys and values of the parameters `restart` that the nodes take."""
    for name in sorted(filter(is_parameter, pipeline.inputs())):
        tree = _tree(catalog.load(name))
        if isinstance(tree, Mapping) and "restart" in tree:
            yield f"{name.removeprefix('params:')}.restart", tree["restart"]


def differences(earlier: Making, now: Making) -> list[str]:
    """In which words `now` differs from `earlier`; none where they are equal."""
    words = []
    for name in sorted(earlier.parameters.keys() | now.parameters.keys()):
        before, after = ({"": each.parameters.get(name)} for each in (earlier, now))
        changed = changed_values(before, after)
        words += [f"{name} {line.lstrip('.').replace(': ', ' ', 1)}".strip() for line in changed]
    for name in sorted(earlier.inputs.keys() | now.inputs.keys()):
        before, after = earlier.inputs.get(name), now.inputs.get(name)
        if before != after:
            missing, new = after in (None, _ABSENT), before in (None, _ABSENT)
            words.append(f"its input {name} is {'missing' if missing else 'new' if new else 'another'}")
    code = sorted(
        name
        for name in earlier.code.keys() | now.code.keys()
        if earlier.code.get(name) != now.code.get(name)
    )
    return words + [f"code of {name}" for name in code]


def _tree(value: Any) -> Any:
    """A typed parameter as it stood in YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.model_dump() if hasattr(value, "model_dump") else value


def _without_commands(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: value for key, value in tree.items() if key not in _COMMANDS}


def _options_of(dataset: Any) -> dict[str, Any]:
    """A dataset's type and the arguments that shape what is loaded or saved."""
    given = getattr(dataset, "_init_args", None) or {}
    if isinstance(dataset, Handle):  # its arguments are places, or among a node's parameters
        option = given["of"]
        given = {"of": {"type": option if isinstance(option, str) else option["type"]}}
    for handed_on in ("options", "kwargs"):
        given = {**given, **(given.get(handed_on) or {}), handed_on: None}
    shaping = {key: value for key, value in given.items() if key not in _NOT_SHAPING}
    shaping = {key: value for key, value in shaping.items() if value not in (None, {}, [], ())}
    return {"type": _dotted(type(dataset)), **plain(shaping, other=_dotted)}


def _dotted(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"


def _types(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        if isinstance(tree.get("type"), str) and "." in tree["type"]:
            yield tree["type"]
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _types(item)
