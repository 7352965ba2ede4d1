"""What the class of an option is, read from its source: importing it might import torch."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import ddpm_kedro

_ROOT = Path(ddpm_kedro.__file__).parent


def class_sentence(path: str) -> str:
    """The first sentence of the docstring of a class of ours, by the path that YAML names, such as
    `ddpm_kedro.DDIM`; empty for any other class."""
    package, *modules = path.split(".")
    name = modules.pop() if modules else ""
    if package != ddpm_kedro.__name__:
        return ""
    modules = modules or ddpm_kedro.PUBLIC.get(name, "").split(".")
    paragraph = " ".join(_docstring(modules, name).partition("\n\n")[0].split())
    return re.split(r"(?<=\w\w\w\.|..[`)]\.) (?=[A-Z`])", paragraph)[0].rstrip(":")


def _docstring(modules: list[str], name: str) -> str:
    """Of the class `name`, as defined, imported or named anew in a module."""
    file = _ROOT.joinpath(*modules)
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or ""
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return _docstring((node.module or "").split(".")[1:], name)
        if isinstance(node, ast.Assign) and name in [ast.unparse(each) for each in node.targets]:
            return _docstring(modules, ast.unparse(node.value))
    return ""
