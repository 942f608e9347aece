"""Videos of episodes, every frame of a chunk at true speed, with truth and error strip where there is a paired truth.

Easy to get wrong: the environment inside must render lists of frames (`render_mode="rgb_array_list"`), which hold all
frames since they were last asked for, and nothing else may ask.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from wcsim.envs.wrappers import base_of
from wcsim.errors import ConfigError
from wcsim.report.video import Clip, compose, encode_mp4


class Recorder(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Writes `episode_0000.mp4` and so on to `folder`, each when the next episode begins or at `close`; in a lane of a
    vector environment `lane_00_episode_0000.mp4`."""

    def __init__(self, env: gym.Env[Any, Any], folder: str) -> None:
        if env.render_mode != "rgb_array_list":
            raise ConfigError(f"a recorder needs render_mode 'rgb_array_list', the environment has {env.render_mode!r}")
        RecordConstructorArgs.__init__(self, folder=str(folder))
        gym.Wrapper.__init__(self, env)
        self.folder = Path(folder)
        self.episodes = 0
        self._frames: dict[str, list[np.ndarray]] = {}
        self._errors: list[float] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Write the episode so far, and begin another."""
        self.write()
        result = self.env.reset(seed=seed, options=options)
        self._collect()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment inside."""
        result = self.env.step(action)
        self._collect()
        return result

    def write(self) -> Path | None:
        """Write the episode so far, unless nothing has been shown; where it is."""
        if not self._frames:
            return None
        cached = next(name for name in self._frames if name != "truth")
        errors = {cached: np.array(self._errors)} if self._errors else {}
        title = self.env.get_wrapper_attr("strip_metric") if errors else "error"
        clip = Clip({name: np.array(frames) for name, frames in self._frames.items()}, errors, title)
        self.folder.mkdir(parents=True, exist_ok=True)
        number = base_of(self.env).number
        lane = "" if number is None else f"lane_{number:02d}_"
        path = self.folder / f"{lane}episode_{self.episodes:04d}.mp4"
        path.write_bytes(encode_mp4(compose(clip), self.env.metadata["render_fps"]))
        self.episodes += 1
        self._frames, self._errors = {}, []
        return path

    def close(self) -> None:
        """Write the last episode and close the environment."""
        self.write()
        self.env.close()

    def _collect(self) -> None:
        frames, errors = self.env.get_wrapper_attr("panels")()
        for name, shown in frames.items():
            self._frames.setdefault(name, []).extend(shown)
        self._errors.extend(errors)
