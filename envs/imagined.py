"""The environment whose physics is a video world model.

One step: check the action, imagine one frame, decode it, judge it, return.  Between steps the rollout stays in latents;
pixels are made for the observer and never fed back.  Easy to get wrong: `info` holds deterministic values only, and
wall-clock times are beside it in `last_timing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import gymnasium as gym
import numpy as np

from wcsim.actions import check_action
from wcsim.cache import parse_cache
from wcsim.cache.fidelity import FidelityConfig
from wcsim.envs.judge import Judgement
from wcsim.envs.tasks import Start, make_task
from wcsim.errors import ConfigError, SnapshotError
from wcsim.spans import Spans
from wcsim.types import Trace, WorldState
from wcsim.world.world import World

Observation = dict[str, np.ndarray]

load_world = lru_cache(maxsize=4)(World.load)
"""Worlds are immutable, so every environment of a process shares one copy."""


@dataclass(frozen=True, slots=True)
class EnvSnapshot:
    """A point in an imagined episode, complete: what is restored from it has the same future, bit for bit.

    world: its name, which restore() checks.  state: the rollout.  pixels: the frame on show `[H, W, 3]`.  agent: the
    last position the judge saw `[2]`.  generator: the state of the environment's random numbers.
    """

    world: str
    state: WorldState
    pixels: np.ndarray
    agent: np.ndarray
    generator: Mapping[str, Any]


class ImaginedEnv(gym.Env[Any, np.ndarray]):
    """A task played inside a world.

    task, task_options: what to play (`wcsim.envs.tasks`).  world: a shipped world's name or a folder.  cache: a
    preset's name or its settings.  steps, solver, context: the other parts of the fidelity; None takes the world's
    default.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "rgb_array_list"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        task: str = "pusht",
        world: str = "pusht-96",
        *,
        cache: str | Mapping[str, Any] = "wcsim",
        steps: int | None = None,
        solver: str = "euler",
        context: int | None = None,
        task_options: Mapping[str, Any] | None = None,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            known = ", ".join(self.metadata["render_modes"])
            raise ConfigError(f"render_mode {render_mode!r} is unknown; known: {known}")
        self.task = make_task(task, **(task_options or {}))
        self.world = load_world(world, device=device)
        spec = self.world.spec
        if spec.task != task or spec.frame_size != self.task.frame_size:
            raise ConfigError(f"world {spec.name!r} imagines task {spec.task!r} at {list(spec.frame_size)}; asked for "
                              f"{task!r} at {list(self.task.frame_size)}")
        fidelity = FidelityConfig(steps=steps, solver=solver, context=context, cache=parse_cache(cache))
        self.fidelity = fidelity.build(spec)
        self.metadata = {**self.metadata, "render_fps": spec.fps}
        self.render_mode = render_mode
        self.action_space = self.task.action_space
        self.observation_space = self.task.observation_space
        box = self.task.observation_space["agent_pos"]
        assert isinstance(box, gym.spaces.Box)
        self._agent_box = box
        self.last_timing: dict[str, float] = {}
        self.last_trace: Trace | None = None
        self.last_latents: Any = None
        self.last_judgement: Judgement
        self._state: WorldState | None = None
        self._shown: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode at the start that belongs to `seed` (drawn where None).

        options: `{"start": Start}` begins at frames of your own instead; the seed then numbers the noise alone.
        """
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        start = (options or {}).get("start") or self.task.start(episode_seed)
        self._state = self._init(start, episode_seed)
        self._pixels, self._agent = start.frames[-1], np.zeros(self._agent_box.shape, np.float32)
        self._shown = [self._pixels]
        self.last_timing, self.last_trace = {}, None
        judgement = self._judge(self._pixels)
        return self._observation(), self._info(judgement, None)

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Imagine one control tick under `action` `[A]`."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        action = check_action(self.world.spec.action, action).reshape(1, 1, -1)
        spans = Spans(self.world.device)
        with spans("imagine"):
            self._state, latents, trace = self.world.advance(self._state, action, self.fidelity)
        with spans("decode"):
            self._pixels = self.world.decode(latents)[0, 0]
        with spans("judge"):
            judgement = self._judge(self._pixels)
        self._shown.append(self._pixels)
        self.last_timing, self.last_trace, self.last_latents = {**trace.spans_ms, **spans.ms()}, trace, latents[0, 0]
        reward, success = float(self.task.reward(judgement)[0]), bool(judgement.success[0])
        return self._observation(), reward, success, False, self._info(judgement, trace)

    def render(self) -> Any:
        """The frame on show, or all frames since the last call, uint8 `[H, W, 3]`."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        if self.render_mode == "rgb_array":
            return self._pixels
        if self.render_mode == "rgb_array_list":
            shown, self._shown = self._shown, []
            return shown
        return None

    def snapshot(self) -> EnvSnapshot:
        """The present as a value.  Wrappers (a time limit, say) keep their own counts and are not part of it."""
        if self._state is None:
            raise SnapshotError("the environment has not been reset yet; call reset() before snapshot()")
        generator = deepcopy(self.np_random.bit_generator.state)
        return EnvSnapshot(self.world.spec.name, self._state, self._pixels, self._agent, generator)

    def restore(self, snapshot: EnvSnapshot) -> Observation:
        """Return to a snapshot of this world, from this environment or another; the observation at that point."""
        if snapshot.world != self.world.spec.name:
            raise SnapshotError(f"the snapshot is of world {snapshot.world!r}; this one is {self.world.spec.name!r}")
        self._state, self._pixels, self._agent = snapshot.state, snapshot.pixels, snapshot.agent
        self.np_random.bit_generator.state = deepcopy(snapshot.generator)
        self._shown = [self._pixels]
        return self._observation()

    def branch(self, count: int) -> list[Self]:
        """`count` environments that go on from here, independently; they share the world and what has passed."""
        snapshot = self.snapshot()
        branches = []
        for _ in range(count):
            branch = type(self).__new__(type(self))
            branch.__dict__.update(self.__dict__)
            branch._np_random, branch._np_random_seed = deepcopy(self.np_random), self.np_random_seed
            branch.restore(snapshot)
            branches.append(branch)
        return branches

    @property
    def state(self) -> WorldState:
        """The rollout's state, one lane; what a planner inside the environment branches from."""
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before reading the state")
        return self._state

    def _init(self, start: Start, seed: int) -> WorldState:
        return self.world.init(start.frames[None], start.actions[None], [seed])

    def _judge(self, pixels: np.ndarray) -> Judgement:
        """Judge the frame; an agent that cannot be seen is taken to be where it was last seen."""
        judgement = self.last_judgement = self.task.judge(pixels[None])
        if judgement.agent_found[0]:
            seen = judgement.agent[0].astype(np.float32)
            self._agent = np.clip(seen, self._agent_box.low, self._agent_box.high)
        return judgement

    def _observation(self) -> Observation:
        return {"pixels": self._pixels.copy(), "agent_pos": self._agent.copy()}

    def _info(self, judgement: Judgement, trace: Trace | None) -> dict[str, Any]:
        return {
            "is_success": bool(judgement.success[0]),
            "coverage": float(judgement.coverage[0]),
            "agent_found": bool(judgement.agent_found[0]),
            "block_found": bool(judgement.block_found[0]),
            "shape_ok": bool(judgement.shape_ok[0]),
            "block_pose": np.nan_to_num(judgement.block[0]).astype(np.float64),
            "hit_rate": trace.hit_rate if trace else 0.0,
            "skipped": trace.skipped if trace else 0.0,
        }
