"""Options become objects: `{type: dotted.path, **arguments}` is looked up, checked and called."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ddpm_kedro
from ddpm_kedro.errors import InputError

Option = Mapping[str, Any]


def locate(path: str, trusted: Sequence[str] | None = None) -> Callable[..., Any]:
    """Import the class or function that a dotted path names, as `torch.optim.SGD` does.

    `trusted` are the prefixes that may be named, each a package or module such as `ddpm_kedro`;
    None trusts every path (YAML on the user's own disk), as a model file never is. InputError where
    the path is not trusted, cannot be imported, or names nothing callable.
    """
    module_name, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if not module_name:
        raise InputError(f"type={path!r}: give a dotted path such as torch.optim.SGD")
    # Ends with dots, so that a name is no prefix of strangers' names
    roots = None if trusted is None else tuple(prefix.rstrip(".") + "." for prefix in trusted)
    if roots is not None and not f"{module_name}.".startswith(roots):
        raise InputError(
            f"type={path}: not among the trusted modules {', '.join(trusted)}; "
            "if you trust the file, add its module to trusted_modules"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise InputError(f"type={path}: cannot import {module_name} ({error})") from error
    except AttributeError as error:
        raise InputError(f"type={path}: module {module_name} has no {name}") from error
    if not callable(found):
        raise InputError(f"type={path}: names a {type(found).__name__}, not a class or a function")
    # A trusted module's imports are not its own: `ddpm_kedro.files.os.system` must not pass.
    if roots is not None and not f"{getattr(found, '__module__', '')}.".startswith(roots):
        raise InputError(f"type={path}: defined outside the trusted modules {', '.join(trusted)}")
    return found


def long_form(value: Any) -> Any:
    """`value` with the type of every option in it spelled as the first versions spelled it.

    `ddpm_kedro.CompactUNet` and the path of the module that defines it are one class: what tells
    trainings apart, in files of earlier versions too, must not depend on which of them was written.
    """
    if isinstance(value, Mapping):
        plain = {key: long_form(item) for key, item in value.items()}
        path = plain.get("type")
        if isinstance(path, str) and path.startswith(f"{ddpm_kedro.__name__}."):
            name = path.rpartition(".")[2]
            if name in ddpm_kedro.PUBLIC and locate(path) is getattr(ddpm_kedro, name):
                plain["type"] = f"{ddpm_kedro.__name__}.{ddpm_kedro.PUBLIC[name]}.{name}"
        return plain
    return [long_form(item) for item in value] if isinstance(value, list | tuple) else value


def check(
    option: Option, *args: Any, trusted: Sequence[str] | None = None, **extra: Any
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Bind an option's arguments against the signature of its type without calling it.

    `args` and `extra` stand for what `build` will add; their values are not looked at. A class
    names the arguments that may be infinite in its attribute `takes_inf`. Returned are the type,
    found, and its arguments. InputError for no `type`, an unknown or missing argument, or a number
    that is not finite.
    """
    if not isinstance(option, Mapping) or "type" not in option:
        raise InputError(f"{option!r}: an option needs a type, as in {{type: torch.optim.SGD}}")
    target = locate(option["type"], trusted)
    arguments = {str(key): value for key, value in option.items() if key != "type"}
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some C types have none: then calling is the only check
        signature = None
    parameters = {} if signature is None else dict(signature.parameters)
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "type" in value:
            check(value, trusted=trusted)
        endless = value == math.inf and key in getattr(target, "takes_inf", ())
        is_finite = not isinstance(value, float) or math.isfinite(value) or endless
        if not is_finite or (isinstance(value, str) and _is_number(parameters.get(key))):
            raise InputError(f"{key}={value} of {option['type']}: give a finite number")
    try:
        if signature is not None:
            signature.bind(*args, **arguments, **extra)
    except TypeError as error:
        own = [name for name in list(parameters)[len(args) :] if name not in extra]
        known = [name for name in own if parameters[name].kind is not inspect.Parameter.VAR_KEYWORD]
        raise InputError(
            f"{option['type']}: {error}; its arguments are {', '.join(known) or 'none'}"
        ) from error
    return target, arguments


def build(option: Option, *args: Any, trusted: Sequence[str] | None = None, **extra: Any) -> Any:
    """Make the object that an option describes; options nested in its arguments are made first.

    `args`, such as an optimizer's parameters, are put in front of its own arguments, `extra` are
    keywords beside them; `trusted` is as in `locate`. InputError as of `check`, or where the type
    refused its arguments (its own message is kept).
    """
    target, arguments = check(option, *args, trusted=trusted, **extra)
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "type" in value:
            arguments[key] = build(value, trusted=trusted)
    try:
        return target(*args, **arguments, **extra)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{option['type']}: {error}") from error


def _is_number(parameter: inspect.Parameter | None) -> bool:
    """Whether an argument is a number by its default or its annotation."""
    numbers = (int, float, "int", "float", "NotNegative")  # the last of a required option's field
    return parameter is not None and (
        type(parameter.default) in (int, float) or parameter.annotation in numbers
    )
