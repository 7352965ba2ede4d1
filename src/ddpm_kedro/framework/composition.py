"""Composition: layers of parameters become one tree, in which every layer has its say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from ddpm_kedro.errors import InputError

# A choice is a line `key: ${table.${name}}`: it picks the entry of `table` that `name` names. With
# `.field` behind the entry it is a part: one choice, such as `formulation`, makes several others.
CHOICE = re.compile(r"^\$\{(?P<table>\w+)\.\$\{(?P<name>\w+)\}(\.(?P<field>\w+))?\}$")


Tree = Mapping[str, Any]
# Tables that would hide an interpolation, each with its path and the line that it lies over
Waiting = list[tuple[tuple[str, ...], str, Tree]]


def compose(layers: Iterable[Tree], users: Iterable[Tree] = ()) -> dict[str, Any]:
    """Merge layers of parameters, later over earlier, and resolve what they interpolate.

    A table laid over an interpolation (`training.optimizer.lr=0.1` over `training.optimizer:
    ${optimizers.${optimizer}}`) waits until that is resolved, so it changes the entry that the
    other layers chose. A layer that names a choice that makes others (`formulation`) outranks those
    others where layers below named them: they become again what the first layer says.

    `layers` are nested dicts of plain values and unresolved `${...}` strings: base, a preset.
    `users` are the same, above those: `conf/local`, the command line; only these tell sampling
    which sampler it draws with, see `sampling.sampler`. InputError where a choice names no entry of
    its table, or an interpolation names no key.
    """
    layers, users = list(layers), list(users)
    merged: dict[str, Any] = {}
    waiting: Waiting = []
    for layer in (*layers, *users):
        parts = _parts(layers[0], layer)
        waiting = [
            (path, line, table)
            for path, line, table in waiting
            # a table with a type names a part as a short name does; others retune what is chosen
            if path[0] not in parts and not ("type" in table and _chosen_by(line) in parts)
        ]
        merged = overlay({**merged, **parts}, layer, waiting)
    for _, match in choice_lines(merged):
        _entry(merged, match.string, match["name"])
    # A layer above may have put something else in the line's place
    there = dict(walk(merged))
    waiting = [each for each in waiting if there.get(".".join(each[0])) == each[1]]
    # What follows such a line, as training.features does evaluation.features, gets the table too
    waiting += [
        (tuple(here.split(".")), line, table)
        for path, _, table in waiting
        for here, line in walk(merged)
        if line == f"${{{'.'.join(path)}}}"
    ]
    asked = [
        {key: value for key, value in _section(layer, "sampling").items() if key == "sampler"}
        for layer in (*layers, *users)
    ]
    tree = {**merged, "_waiting": [dict(table) for _, _, table in waiting], "_asked": asked}
    try:
        resolved: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)  # type: ignore[assignment]
    except InterpolationKeyError as error:
        raise InputError(f"parameter {error.full_key}: {str(error).splitlines()[0]}") from error
    except OmegaConfBaseException as error:
        raise InputError(f"parameters: {str(error).splitlines()[0]}") from error
    for (path, _, _), table in zip(waiting, resolved.pop("_waiting"), strict=True):
        target = resolved
        for key in path[:-1]:
            target = target[key]
        value = target[path[-1]]
        target[path[-1]] = overlay(value, table, []) if isinstance(value, Mapping) else table
    told = _sampler_told(resolved, resolved.pop("_asked"), layers, users)
    if told is not None and isinstance(resolved.get("sampling"), dict):
        resolved["sampling"]["sampler"] = told
    return resolved


def _parts(base: Tree, layer: Tree) -> dict[str, str]:
    """The lines of base that choices named in a layer fill, such as the parts of a formulation."""
    return {key: line for key, line in base.items() if _chosen_by(line) in layer}


def _chosen_by(line: Any) -> str | None:
    """The name of the choice that a line `${table.${name}}` follows."""
    match = CHOICE.match(line) if isinstance(line, str) else None
    return match["name"] if match else None


def _sampler_told(tree: Tree, asked: list[Tree], layers: list[Tree], users: list[Tree]) -> Any:
    """The option that sampling is told to draw with, or None for the model file's own sampler.

    The last layer that speaks wins: it names `sampling.sampler` (in short, or as an option;
    without a type its arguments change what would be used otherwise), or a user's layer names
    `sampler` or retunes its entry of `samplers`. A preset's models carry its sampler anyway.
    """
    samplers, chosen = _section(tree, "samplers"), tree.get("sampler")
    every, told = [*layers, *users], None
    for number, (layer, section) in enumerate(zip(every, asked, strict=True)):
        outranked = any("sampler" in _parts(every[0], above) for above in every[number + 1 :])
        named = "sampler" in layer and not outranked
        if number >= len(layers) and (named or chosen in _section(layer, "samplers")):
            told = samplers.get(chosen)
        if "sampler" not in section:
            continue
        given = section["sampler"]
        if isinstance(given, str):
            if given not in samplers:
                raise InputError(f"sampling.sampler={given}: {choices(given, sorted(samplers))}")
            told = samplers[given]
        elif isinstance(given, Mapping) and "type" not in given:
            told = overlay(told or {}, given, [])
        else:
            told = given
    return told


def _section(tree: Tree, name: str) -> Tree:
    section = tree.get(name)
    return section if isinstance(section, Mapping) else {}


def overlay(
    under: Tree, over: Tree, waiting: Waiting, path: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`over` laid key by key over `under`, both left as they are; `waiting` is added to."""
    merged = dict(under)
    for key, value in over.items():
        here = (*path, str(key))
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = overlay(below, value, waiting, here)
        elif isinstance(value, Mapping) and isinstance(below, str) and "${" in below:
            waiting.append((here, below, value))
        else:
            merged[key] = value
    return merged


def _entry(tree: Tree, line: str, name: str) -> Any:
    """What a line that follows the choice `name` becomes: an entry of its table, or a part of it;
    InputError where there is no such entry, or it lacks the part."""
    match = CHOICE.match(line)
    table, chosen, where = tree.get(match["table"]), tree.get(name), name
    if (above := _chosen_by(chosen)) is not None:  # it is itself a part of another choice
        part = CHOICE.match(chosen)
        where = f"{part['table']}.{tree.get(above)}.{part['field']}"
        chosen = _entry(tree, chosen, above)
    if not isinstance(table, Mapping) or (isinstance(chosen, str) and "${" in chosen):
        return line
    if not isinstance(chosen, str) or chosen not in table:
        raise InputError(f"{where}={chosen}: {choices(str(chosen), sorted(table))}")
    entry = table[chosen]
    if match["field"] is None:
        return entry
    if not isinstance(entry, Mapping) or match["field"] not in entry:
        part = match["field"]
        raise InputError(f"{match['table']}.{chosen}: names no {part}, which it has to choose too")
    return entry[match["field"]]


def choices(wrong: str, known: list[str]) -> str:
    """The right names, and the one that was probably meant, for the end of a message."""
    close = get_close_matches(wrong, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"choose one of {', '.join(known)}{hint}"


def leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested tables with its dotted path; lists and empty tables are values."""
    for key, value in tree.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, here)
        else:
            yield here, value


def choice_lines(tree: Tree) -> Iterator[tuple[str, re.Match[str]]]:
    """Every line of a tree that follows a choice: its dotted path, and what `CHOICE` finds."""
    for path, value in walk(tree):
        if isinstance(value, str) and (match := CHOICE.match(value)):
            yield path, match


def walk(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every entry of nested tables and lists, with its dotted path."""
    entries: Iterable[tuple[str, Any]] = ()
    if isinstance(tree, Mapping):
        entries = ((f"{path}.{key}" if path else str(key), value) for key, value in tree.items())
    elif isinstance(tree, list):
        entries = ((f"{path}[{number}]", value) for number, value in enumerate(tree))
    for here, value in entries:
        yield here, value
        yield from walk(value, here)
