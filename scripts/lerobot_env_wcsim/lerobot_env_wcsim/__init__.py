"""wcsim's environments as `--env.type=wcsim` of LeRobot's commands.

LeRobot imports installed packages whose name begins as this one's; an older one is told by
`--env.discover_packages_path=lerobot_env_wcsim`.  Easy to get wrong: all settings of `wcsim.envs.env.make_env` that are
not set here still come from `WCSIM_ENV_` variables.
"""

from __future__ import annotations

from lerobot_env_wcsim.config import WcsimEnvConfig

__all__ = ["WcsimEnvConfig"]
