"""What Kedro reads first: our classes and hooks. Everything else is YAML under conf/."""

from ddpm_kedro.framework.config_loader import LayeredConfigLoader
from ddpm_kedro.framework.session import ProjectSession
from ddpm_kedro.hooks.parameter_check import ParameterCheck
from ddpm_kedro.hooks.run_summary import RunSummary
from ddpm_kedro.hooks.stage_lines import StageLines
from ddpm_kedro.hooks.wandb_run import WandbHook

HOOKS = (ParameterCheck(), StageLines(), RunSummary(), WandbHook())
SESSION_CLASS = ProjectSession
CONFIG_LOADER_CLASS = LayeredConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft", "wandb": "soft", "sweep": "soft"},
    "config_patterns": {"wandb": ["wandb*", "wandb*/**"], "sweep": ["sweep*", "sweep*/**"]},
}
