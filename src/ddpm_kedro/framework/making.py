"""What makes the outputs of nodes: the contents of their inputs, their parameters, their code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from kedro.io.core import is_parameter
from kedro.pipeline import Pipeline

from ddpm_kedro.content import content_hash
from ddpm_kedro.datasets.handle import Handle
from ddpm_kedro.datasets.place import loaded_place, place_of
from ddpm_kedro.framework.code_digest import code_digest
from ddpm_kedro.plain import canonical, plain
from ddpm_kedro.training.store.fingerprint import differences as changed_values

_COMMANDS = ("force", "restart")  # say what to do now, not what is made
_SHOWN = 3  # words in a line
_ABSENT = {"absent": True}
_PLACES = {"filepath", "path", "version", "credentials", "fs_args"}  # where content lies, not what
_FOR_OTHERS = {"metadata", "written_by", "required"}
_LOADING = {"load_args", "weights", "trusted_modules"}  # nothing to who only saves


@dataclass(frozen=True)
class Making:
    """What makes the outputs of a unit or a stage, as plain data: where it is equal, they are.

    `inputs` are facts of contents by dataset, `parameters` canonical values by `params:` name, the
    options of datasets by `catalog:` name, what a node's function is given by `node:` name and the
    hashes of files that a parameter names by `files:` name, `code` what `code_digest` gives.
    """

    inputs: dict[str, Any]
    parameters: dict[str, Any]
    code: dict[str, str]


def making_of(pipeline: Pipeline, catalog: Any) -> Making | None:
    """The making of a node, a unit or a stage, None where `inputs_of` is. `parameters_of` and
    `code_of` give those parts where the inputs are not there yet, or are none of one's business."""
    inputs = inputs_of(pipeline, catalog)
    if inputs is None:
        return None
    parameters = parameters_of(pipeline, catalog)
    return Making(inputs, parameters, code_of(pipeline, [parameters, inputs]))


def inputs_of(pipeline: Pipeline, catalog: Any) -> dict[str, Any] | None:
    """The part `inputs`: facts of what no node of `pipeline` makes; None where nobody can tell one
    of them. InputError where one cannot be read, or a source of images is not there."""
    names = sorted(name for name in pipeline.inputs() if not is_parameter(name))
    facts = {name: facts_of(catalog.get(name, True)) for name in names}
    return None if None in facts.values() else {name: each for name, each in facts.items() if each}


def facts_of(dataset: Any) -> dict[str, Any] | None:
    """What a dataset's content is: `{"sha256": ...}` of its file or folder, or what its method
    `facts` says, where None becomes `{"absent": True}`; nothing for a handle that is a place to
    work in. None where nobody can tell: in memory, in a database, without a file."""
    dataset = getattr(dataset, "_dataset", dataset)  # what a CachedDataset holds
    if isinstance(dataset, Handle) and dataset._path is not None:
        return {}  # without making the store: its class may import torch
    if hasattr(dataset, "facts"):
        facts = dataset.facts()
        return dict(_ABSENT) if facts is None else canonical(facts)
    place = loaded_place(dataset)
    sha256 = place and place.sha256()
    return {"sha256": sha256} if sha256 else None


def parameters_of(pipeline: Pipeline, catalog: Any) -> dict[str, Any]:
    """The part `parameters`, for which no dataset needs to be there."""
    values: dict[str, Any] = {f"node:{node.name}": _wiring_of(node) for node in pipeline.nodes}
    loaded = {name for node in pipeline.nodes for name in node.inputs}
    for name in sorted(pipeline.datasets() - {"params:force"}):
        if not is_parameter(name):
            options = _options_of(catalog.get(name, True), set() if name in loaded else _LOADING)
            values[f"catalog:{name}"] = options
            continue
        tree = canonical(plain(_tree(catalog.load(name)), real=float, other=repr))
        if name == "parameters":
            tree = {key: _without_commands(value) for key, value in tree.items()}
        values[name] = _without_commands(tree)
        if files := dict(_files_named(values[name])):
            values[f"files:{name}"] = files
    return values


def _files_named(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The hash of each file that a text in a parameter names, as `training.init_from` does, by its
    dotted key."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _files_named(value, f"{key}.{name}".lstrip("."))
    elif isinstance(tree, str) and os.path.isfile(tree):
        with contextlib.suppress(OSError):  # whoever reads it says so
            yield key, content_hash(tree)


def code_of(pipeline: Pipeline, trees: Iterable[Any] = ()) -> dict[str, str]:
    """The part `code`: of the nodes' functions, and of each `type: dotted.path` in `trees`, such as
    what `parameters_of` gives. Nothing is imported for it."""
    roots = {dotted(node.func) for node in pipeline.nodes}
    return code_digest(sorted(roots.union(*map(_types, trees))))


def orders_of(pipeline: Pipeline, catalog: Any) -> dict[str, bool]:
    """The parameters that order the nodes to run, whatever was made before: each `restart` at the
    top of a parameter that they take, as `training.restart`, and `force`."""
    taken = {name: _tree(catalog.load(name)) for name in filter(is_parameter, pipeline.inputs())}
    orders = {
        f"{name.removeprefix('params:')}.restart": bool(tree["restart"])
        for name, tree in sorted(taken.items())
        if isinstance(tree, Mapping) and "restart" in tree
    }
    return {**orders, "force": "params:force" in catalog and bool(catalog.load("params:force"))}


def differences(earlier: Making, now: Making) -> list[str]:
    """How `now` differs from `earlier`, in words; none where they are equal."""
    words = []
    for name, before, after in _unequal(earlier.parameters, now.parameters):
        if not (name in earlier.parameters and name in now.parameters):
            words.append(f"{name} is {'new' if name in now.parameters else 'gone'}")
            continue
        if name.startswith("files:"):  # hashes say nothing
            words.append(f"a file that {name.removeprefix('files:')} names changed")
            continue
        lines = changed_values({"": before}, {"": after})
        lines.sort(key=lambda line: ".type: " not in line)  # a choice says more than its arguments
        lines = [line.lstrip(".").replace(": ", " ", 1).strip() for line in lines]
        words += [f"{name} {line}" for line in lines or ["changed"]]  # 1 and "1" read the same
    for name, before, after in _unequal(earlier.inputs, now.inputs):
        how = "is missing" if after in (None, _ABSENT) else "changed"
        words.append(f"input {name} {'is new' if before in (None, _ABSENT) else how}")
    code = [name for name, *_ in _unequal(earlier.code, now.code)]
    return [*words, f"code of {listed(code)}"] if code else words


def listed(words: Iterable[str]) -> str:
    """The first three of some words, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return f"{', '.join(words[:_SHOWN])}{more}"


def _unequal(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted(earlier.keys() | now.keys()):
        if not _is_same(earlier.get(name), now.get(name)):
            yield name, earlier.get(name), now.get(name)


def _is_same(earlier: Any, now: Any) -> bool:
    """Equal as JSON, where 1 is not true, and NaN is NaN."""
    return json.dumps(earlier, sort_keys=True) == json.dumps(now, sort_keys=True)


def _tree(value: Any) -> Any:
    """A typed parameter as it stood in YAML."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return value.model_dump() if hasattr(value, "model_dump") else value


def _without_commands(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: value for key, value in tree.items() if key not in _COMMANDS}


def _options_of(dataset: Any, idle: Set[str]) -> dict[str, Any]:
    """A dataset's type, and the arguments that shape what is loaded or saved, less those in
    `idle`."""
    given = plain(getattr(dataset, "_init_args", {}), other=dotted) if place_of(dataset) else {}
    if isinstance(dataset, Handle):  # its arguments are places, or among a node's parameters
        given = {"of": {"type": dataset._option["type"]}}
    for handed_on in ("options", "kwargs"):
        given |= given.pop(handed_on, None) or {}
    shaping = {
        key: value for key, value in given.items() if key not in _PLACES | _FOR_OTHERS | idle
    }
    shaping = {key: value for key, value in shaping.items() if value not in (None, {}, [])}
    return {"type": dotted(type(dataset)), **shaping}


def _wiring_of(node: Any) -> dict[str, Any]:
    """What goes into which argument of a node's function, what becomes of what it returns, and what
    the function brings along."""
    wiring = {"inputs": list(node.inputs), "outputs": list(node.outputs)}
    return wiring | _held_by(node.func)


def _held_by(function: Any, within: tuple[Any, ...] = ()) -> dict[str, Any]:
    """What a function was given when it was made, which its code does not tell: the arguments of a
    partial one, the object of a method, the variables and defaults of one made in a function. An
    object in them is what its `repr` says."""
    held: dict[str, Any] = {}
    if isinstance(function, functools.partial):
        held = {"args": function.args, "keywords": function.keywords}
        function = function.func
    if not hasattr(function, "__qualname__"):
        held["self"] = {"type": dotted(function), **vars(function)}
    elif inspect.ismethod(function):
        owner = function.__self__
        is_class = isinstance(owner, type)
        held["self"] = {"type": dotted(owner), **({} if is_class else vars(owner))}
    elif inspect.isfunction(function) and {"<locals>", "<lambda>"} & {
        *function.__qualname__.split(".")
    }:
        held["closure"] = inspect.getclosurevars(function).nonlocals
        held["defaults"] = [
            *(function.__defaults__ or ()),
            *(function.__kwdefaults__ or {}).items(),
        ]

    def described(value: Any) -> Any:
        if not (hasattr(value, "__qualname__") or isinstance(value, functools.partial)):
            return repr(value)
        more = {} if value in within else _held_by(value, (*within, function))
        return {"type": dotted(value), **more}

    given = {key: value for key, value in held.items() if value}
    return plain(given, real=float, other=described)


def dotted(function: Any) -> str:
    """The dotted path of a class or a function, of a partial one's function, or of an object's
    class."""
    while isinstance(function, functools.partial):
        function = function.func
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"


def _types(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        if isinstance(tree.get("type"), str) and "." in tree["type"]:
            yield tree["type"]
        # how a model was trained is no code that runs where it is used
        tree = [value for key, value in tree.items() if key != "provenance"]
    for item in tree if isinstance(tree, list) else []:
        yield from _types(item)
