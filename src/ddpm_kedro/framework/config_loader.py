"""Configuration in layers: base < preset < local < params.yaml < `--params`, merged as text,
resolved once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException, OmegaConfigLoader
from kedro.framework.project import settings
from omegaconf import OmegaConf
from yaml import MarkedYAMLError, YAMLError

from ddpm_kedro.errors import InputError, one_line
from ddpm_kedro.framework.composition import choices, compose, overlay, walk
from ddpm_kedro.parameters import Parameters

# Layers; a preset is one by its own name
_BASE, _LOCAL, _PARAMS_FILE, _TYPED = "base", "local", "params.yaml", "--params"
USER_LAYERS = (_LOCAL, _PARAMS_FILE, _TYPED)  # above base and preset, see `compose`


class LayeredConfigLoader(OmegaConfigLoader):
    """Merge all layers before any interpolation is resolved.

    Kedro resolves each environment on its own and merges the results, so a preset that retunes
    `optimizers.sgd.lr` and a user who says `optimizer=sgd` never hear of each other. Here the
    layers are merged as they are written, then resolved together. `conf/local` applies under
    every preset. Parameters merge key by key; any other file replaces whole top-level entries, as
    in plain Kedro, unless `merge_strategy` says `soft` for it. In the catalog
    `${parameters:key.subkey}` is the composed value of that parameter. InputError where the
    environment has no folder, a file is not key: value lines, or a choice names no entry.

    `params.yaml` beside `conf_source`, where there is one, is the file that `dvc exp run -S` writes
    into: a layer of parameters of its own. What is null there is not set, and its key `preset` is
    the environment where none is asked for.

    `parameter_layers` are the layers of the parameters as written, lowest first, by name, once
    these were asked for.
    """

    parameter_layers: Mapping[str, Mapping[str, Any]]

    def __init__(self, conf_source: str | Path, *args: Any, **kwargs: Any) -> None:
        folder = Path(conf_source)
        self._params_file = _params_file(folder.parent / _PARAMS_FILE)
        preset = self._params_file.pop("preset", None)
        env = kwargs.pop("env", args[0] if args else None)
        said = f"--env {env}" if env else f"{_PARAMS_FILE}: preset={preset}"
        env = env or preset
        if env and folder.is_dir() and not (folder / str(env)).is_dir():
            folders = {entry.name for entry in folder.iterdir() if entry.is_dir()}
            known = choices(str(env), sorted(folders - {"base", _LOCAL}))
            raise InputError(f"{said}: no folder {folder / str(env)}; {known}")
        super().__init__(conf_source, env, *args[1:], **kwargs)

    def _read_dir_configs(
        self, conf_path: str, patterns: Iterable[str], key: str, *args: Any, **kwargs: Any
    ) -> dict[Path, Any]:
        patterns = list(patterns)
        try:
            return super()._read_dir_configs(conf_path, patterns, key, *args, **kwargs)
        except Exception as error:
            # Kedro names neither file nor line in most of these; look which file it was.
            for path in sorted({path for each in patterns for path in Path(conf_path).glob(each)}):
                if self._is_valid_config_path(path):
                    _check_file(path)
            if isinstance(error, ValueError):  # the same key in two files
                raise InputError(one_line(error)) from error
            raise

    def checked_parameters(self) -> Parameters:
        """The parameters; InputError in one line says which one is wrong."""
        try:
            return Parameters.from_tree(self["parameters"])
        except InputError as error:
            raise self.placed(error) from error

    def placed(self, error: InputError) -> InputError:
        """The same mistake, with the file's name before a key whose value params.yaml gives."""
        path = str(error).partition("=")[0]
        typed = dict(walk(self.runtime_params or {}))
        if path in dict(walk(self._params_file)) and path not in typed:
            return InputError(f"{_PARAMS_FILE}: {error}")
        return error

    def _resolve_from_raw_config(self, key: str, *given: Any) -> dict[str, Any]:
        # Private in Kedro 1.7, which pyproject.toml therefore holds below 1.8; the public seam
        # (`load_and_merge_dir_config`) merges and resolves in one go and cannot be split.
        if key == "globals":
            return super()._resolve_from_raw_config(key, *given)
        base_configs, env_configs, base_path, env_path, processed_files = given
        layers = {_BASE: _flatten(base_configs.values())}
        if env_path != base_path:
            layers[Path(env_path).name] = _flatten(env_configs.values())
        local_path = self._get_conf_env_path(_LOCAL)
        if local_path not in (base_path, env_path) and self._fs.isdir(local_path):
            local_configs = self._read_dir_configs(
                local_path, self.config_patterns[key], key, processed_files, key == "credentials"
            )
            layers[_LOCAL] = _flatten(local_configs.values())
        if not processed_files:
            raise MissingConfigException(
                f"no files match {', '.join(self.config_patterns[key])} in {base_path}, {env_path}"
            )
        if key == "parameters":
            layers[_PARAMS_FILE] = self._params_file
            layers[_TYPED] = dict(self.runtime_params or {})
            if self.restrict_runtime_params_type_selection:
                named = (path for path, _ in walk(layers[_TYPED]))
                if path := next((path for path in named if path.split(".")[-1] == "type"), None):
                    raise InputError(f"{path}: parameters from a request may not name a type")
            self.parameter_layers = dict(layers)
            users = [layers.pop(name, {}) for name in USER_LAYERS]
            try:
                return compose(layers.values(), users)
            except InputError as error:
                raise self.placed(error) from error
        soft = self.merge_strategy.get(key) == "soft"
        merged: dict[str, Any] = {}
        for layer in layers.values():
            merged = overlay(merged, layer, []) if soft else {**merged, **layer}
        if key == "catalog":
            _check_catalog(merged)
        parameters = cache(lambda: self["parameters"])  # composed once, and only if it is asked for
        # Registered at each use: resolvers are global, and another loader may have come between.
        OmegaConf.register_new_resolver(
            "parameters", lambda path: _at(parameters(), path), replace=True
        )
        resolved: Any = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
        return {name: value for name, value in resolved.items() if not name.startswith("_")}


def project_loader(
    project: Path, env: str | None = None, params: Mapping[str, Any] | None = None
) -> LayeredConfigLoader:
    """The loader of a `kedro run` in the folder `project`, of the preset `env`, or else the one
    that `KEDRO_ENV` names; `params` are nested."""
    return settings.CONFIG_LOADER_CLASS(
        str(project / settings.CONF_SOURCE),
        env=env or os.environ.get("KEDRO_ENV"),
        runtime_params=dict(params or {}),
        **settings.CONFIG_LOADER_ARGS,
    )


def _params_file(path: Path) -> dict[str, Any]:
    """What stands in `path`, without what is null there; nothing where there is no such file."""
    if not path.is_file():
        return {}
    _check_file(path)
    return _set_only(_flatten([OmegaConf.load(path)]))


def _set_only(tree: Mapping[str, Any]) -> dict[str, Any]:
    inner = {k: _set_only(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
    return {key: value for key, value in inner.items() if value is not None}


def _at(parameters: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(parameters, Mapping) or key not in parameters:
            raise InputError(f"the catalog asks for parameter {path}, which does not exist")
        parameters = parameters[key]
    return parameters


def _flatten(configs: Iterable[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for config in configs:
        container = OmegaConf.to_container(config, resolve=False)
        if not isinstance(container, dict):
            raise InputError("a configuration file must hold key: value lines at its top level")
        merged = overlay(merged, container, [])
    return merged


def _check_file(path: Path) -> None:
    """Refuse a configuration file that is not key: value lines, with its name and line."""
    line, reason = "", "needs key: value lines at its top level, not a list"
    try:
        if OmegaConf.is_dict(OmegaConf.load(path)):
            return
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        reason = f"not valid YAML: {error.problem}"
    except UnicodeDecodeError:
        reason = "not valid YAML: not UTF-8 text"
    except OSError as error:  # also what OmegaConf says of a file that holds a number only
        reason = error.strerror or "needs key: value lines"
    except YAMLError as error:
        reason = f"not valid YAML: {str(error).splitlines()[0]}"
    raise InputError(f"{path}{line}: {reason}")


def _check_catalog(entries: Mapping[str, Any]) -> None:
    for name, entry in entries.items():
        if not name.startswith("_") and not (isinstance(entry, Mapping) and "type" in entry):
            raise InputError(
                f"catalog entry {name}: needs a type, the dotted path of a dataset; a name that "
                "other entries interpolate begins with an underscore"
            )
