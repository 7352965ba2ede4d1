"""Imports point one way, and the library stands without the frameworks around it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "ddpm_kedro"
MODULES = sorted(PACKAGE.rglob("*.py"))

GROUND = {"errors", "construction", "content", "files", "locks", "plain", "progress", "heap"}
GROUND |= {"ranges"}
LIBRARY = {"images", "diffusion", "training", "evaluation"}
# What each part of the package may import of the package besides itself and the ground.
MAY_IMPORT = {
    **{module: set() for module in GROUND},
    "images": set(),
    "diffusion": {"images"},
    "training": {"images", "diffusion", "evaluation"},
    "evaluation": {"images", "diffusion"},
    "parameters": {"images", "diffusion", "training", "evaluation"},
    "option_check": {"diffusion", "evaluation", "training", "parameters"},
    "datasets": {"images", "diffusion", "training", "evaluation"},
    "pipelines": {"images", "diffusion", "training", "evaluation", "parameters"},
    "framework": {"training", "datasets", "parameters"},
    "hooks": {"images", "training", "parameters", "option_check"},
    "settings": {"framework", "hooks"},
    "pipeline_registry": {"pipelines"},
    "cli": {"commands"},
    "commands": {"framework", "sweeps", "parameters", "option_check", "evaluation"},
    "sweeps": {"framework", "parameters", "option_check", "evaluation"},
    "__main__": set(),
    "__init__": {"diffusion"},
}
ALLOWED_AT_TOP = {"torch", "numpy", "PIL", "safetensors", "ddpm_kedro"}
KEDRO_ALLOWED = {"datasets", "hooks", "framework", "settings", "pipeline_registry", "__main__"}
KEDRO_ALLOWED |= {"cli", "commands", "sweeps"}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module of a file, and whether the import runs when the file is imported."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for block in ast.walk(tree):  # under `if TYPE_CHECKING:` nothing is imported
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test):
            inside |= {id(node) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            yield node.module or "", id(node) not in inside


def test_every_part_has_its_rule():
    assert {part_of(path) for path in MODULES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = part_of(path)
    for name, _ in imports(path):
        if name.split(".")[0] != "ddpm_kedro" or name == "ddpm_kedro":
            continue
        imported = name.split(".")[1]
        assert imported in MAY_IMPORT[part] | GROUND | {part}, f"{path} imports {name}"
        if part in GROUND:
            assert imported in GROUND, f"{path} imports {name}"
    if part == "pipelines" and len(path.relative_to(PACKAGE).parts) == 3:
        stage = path.relative_to(PACKAGE).parts[1]
        for name, _ in imports(path):
            if name.startswith("ddpm_kedro.pipelines."):
                assert name.split(".")[2] == stage, f"{path} imports another pipeline: {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_frameworks_stay_where_they_belong(path):
    part = part_of(path)
    is_wiring = part in KEDRO_ALLOWED or path.name == "pipeline.py"
    for name, at_top in imports(path):
        root = name.split(".")[0]
        assert root != "kedro" or is_wiring, f"{path} imports {name}"
        assert root != "wandb" or (part == "hooks" and not at_top), f"{path} imports {name}"
        if part in LIBRARY | GROUND and at_top:
            known = root in ALLOWED_AT_TOP or root in sys.stdlib_module_names
            assert known, f"{path} imports {name} at its top"


def test_the_library_imports_without_the_frameworks():
    modules = [
        ".".join(("ddpm_kedro", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in MODULES
        if part_of(path) in LIBRARY | GROUND and path.name not in ("__init__.py", "__main__.py")
    ]
    program = f"""
import importlib, sys
class Blocked:
    names = ("kedro", "kedro_datasets", "kedro_viz", "pydantic", "wandb", "diffusers", "omegaconf",
             "torchvision", "pyarrow", "sklearn", "scipy", "matplotlib", "tqdm")
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
for name in {modules!r}:
    importlib.import_module(name)
import ddpm_kedro
assert callable(ddpm_kedro.load_model)
print(len({modules!r}))
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": "/usr/bin:/bin"},
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == len(modules) > 10
