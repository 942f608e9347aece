"""The environment whose physics is a video world model.

One step: check the action, imagine one frame, decode it, judge it, return.  Between steps the rollout stays in latents;
pixels are made for the observer and never fed back.  Easy to get wrong: `info` holds deterministic values only, and
wall-clock times are beside it in `last_timing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Self

import gymnasium as gym
import numpy as np
from torch import Tensor

from wcsim.cache import parse_cache
from wcsim.cache.fidelity import FidelityConfig
from wcsim.envs.judge import Judgement
from wcsim.envs.lanes import Imagination, Lane, Tick, fingerprint, load_world
from wcsim.envs.snapshots import EnvSnapshot
from wcsim.envs.tasks import Start, make_task
from wcsim.errors import ConfigError, SnapshotError
from wcsim.spans import Spans
from wcsim.types import Decide, Trace, WorldState

__all__ = ["EnvSnapshot", "ImaginedEnv", "Observation", "load_world"]

Observation = dict[str, np.ndarray]
StepResult = tuple[Observation, float, bool, bool, dict[str, Any]]

CAPTIONS = {True: "uncached", False: "cached"}
"""What a recorder writes over the frames, by whether the cache is off."""


class ImaginedEnv(gym.Env[Any, np.ndarray]):
    """A task played inside a world.

    task, task_options: what to play (`wcsim.envs.tasks`).  world: a shipped world's name or a folder.  cache: a
    preset's name or its settings.  steps, solver, context, guidance, guidance_until, decide, context_refresh: the other
    parts of the fidelity (`wcsim.types.Fidelity`); None takes the world's default.  compiled: whether `torch.compile`
    makes graphs of what every step runs; the first steps wait for them, and they round otherwise.  The attribute
    `task` is the task's name, as LeRobot wants it; the task itself is `played`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "rgb_array_list"], "render_fps": 10}  # noqa: RUF012
    start: Start | None
    number: int | None = None
    """Which lane of a vector environment this is."""
    horizon: int | None = None
    """Steps after which an episode is truncated; None leaves that to a wrapper."""
    last_timing: dict[str, float]
    last_trace: Trace | None
    _lane: Lane | None
    _shown: list[np.ndarray]
    last_judgement: Judgement
    """What the judge says of the frame on show; there is none before a reset."""

    def __init__(
        self,
        task: str = "pusht",
        world: str = "pusht-96",
        *,
        cache: str | Mapping[str, Any] = "wcsim",
        steps: int | None = None,
        solver: str = "euler",
        context: int | None = None,
        guidance: float = 0.0,
        guidance_until: float = 0.0,
        decide: Decide = "together",
        context_refresh: float = 0.0,
        task_options: Mapping[str, Any] | None = None,
        device: str = "cpu",
        compiled: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            known = ", ".join(self.metadata["render_modes"])
            raise ConfigError(f"render_mode {render_mode!r} is unknown; known: {known}")
        self.played = make_task(task, **(task_options or {}))
        self.task, self.task_description = self.played.name, self.played.description
        self._max_episode_steps = self.played.max_episode_steps
        self.world = load_world(world, device=device, compiled=compiled)
        spec = self.world.spec
        if spec.task != task or spec.frame_size != self.played.frame_size:
            raise ConfigError(f"world {spec.name!r} imagines task {spec.task!r} at {list(spec.frame_size)}; asked for "
                              f"{task!r} at {list(self.played.frame_size)}")
        fidelity = FidelityConfig(steps=steps, solver=solver, context=context, cache=parse_cache(cache),
                                  guidance=guidance, guidance_until=guidance_until, decide=decide,
                                  context_refresh=context_refresh)
        self.fidelity = fidelity.build(spec)
        self.imagination = Imagination(self.played, self.world, self.fidelity)
        self.caption = CAPTIONS[fidelity.cache.kind == "none"]
        self._fingerprint = fingerprint(world)
        self.metadata = {**self.metadata, "render_fps": spec.fps}
        self.render_mode = render_mode
        self.action_space = self.played.action_space
        self.observation_space = self.played.observation_space
        self._forget()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode at the start that belongs to `seed` (drawn where None).

        options: `{"start": Start}` begins at frames of your own instead; the seed then numbers the noise alone.
        """
        start = (options or {}).get("start")
        if start is not None:
            self.imagination.check_start(start)
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        start = start or self.played.start(episode_seed)
        tick = self.imagination.begin(start, episode_seed)
        self._forget()
        self.start = start
        self._arrive(tick, {})
        return self._observation(), tick.info

    def step(self, action: np.ndarray) -> StepResult:
        """Imagine one control tick under `action` `[A]`."""
        lane = self.lane
        actions = self.imagination.check(action, ())[None]
        spans = Spans(self.world.device)
        (tick,) = self.imagination.step([lane], actions, spans)
        return self.take(tick, spans.ms())

    def take(self, tick: Tick, timing: Mapping[str, float]) -> StepResult:
        """Go on to a tick of this environment's lane; what `step` then returns.  `timing`: spans that it took."""
        assert tick.trace is not None
        self.elapsed += 1
        truncated = self.horizon is not None and self.elapsed >= self.horizon
        self.over = tick.success or truncated
        self._arrive(tick, {**tick.trace.spans_ms, **timing})
        return self._observation(), tick.reward, tick.success, truncated, tick.info

    def expect(self, actions: np.ndarray, *, together: bool = True) -> None:
        """Imagine the frames of the next actions `[k, A]` now; the steps that follow show them.

        together: as one chunk; else one after the other, as those steps would.  A step with another action than
        announced gives up the rest and goes on from the frame on show.
        """
        lane, spans = self.lane, Spans(self.world.device)
        checked = self.imagination.check(actions, (len(actions),))[None]
        (self._lane,) = self.imagination.expect([lane], checked, spans, together=together)

    def anchor(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Take really seen frames `[T, H, W, 3]` and the actions `[T-1, A]` between them for the past from now on."""
        self._lane = self.imagination.anchor(self.lane, frames, actions)

    def render(self) -> Any:
        """The frame on show, or all frames since the last call, uint8 `[H, W, 3]`."""
        lane = self.lane
        if self.render_mode == "rgb_array":
            return lane.pixels
        if self.render_mode == "rgb_array_list":
            shown, self._shown = self._shown, []
            return shown
        return None

    def panels(self) -> tuple[dict[str, list[np.ndarray]], list[float]]:
        """What a recorder shows: frames since the last call by caption, and errors per tick, of which there are none
        here.  It uses up the frames of `rgb_array_list`."""
        shown, self._shown = self._shown, []
        return {self.caption: shown}, []

    def snapshot(self) -> EnvSnapshot:
        """The present as a value; no frame or latent is copied.

        Wrappers (a time limit, say) keep their own counts and are not part of it.
        """
        if self._lane is None:
            raise SnapshotError("the environment has not been reset yet; call reset() before snapshot()")
        generator = deepcopy(self.np_random.bit_generator.state)
        return EnvSnapshot(self.world.spec.name, self._fingerprint, self._lane, self.elapsed, self.over, generator)

    def restore(self, snapshot: EnvSnapshot) -> Observation:
        """Return to a snapshot of this world, from this environment or another; the observation at that point."""
        self.check_snapshot(snapshot)
        self._lane, self.elapsed, self.over = snapshot.lane, snapshot.elapsed, snapshot.over
        self.np_random.bit_generator.state = deepcopy(snapshot.generator)
        self._shown = [snapshot.lane.pixels]
        return self._observation()

    def check_snapshot(self, snapshot: EnvSnapshot) -> None:
        """Raise SnapshotError unless the snapshot is of this very world."""
        if not isinstance(snapshot, EnvSnapshot):
            raise SnapshotError(f"an environment returns to an EnvSnapshot, got {type(snapshot).__name__}")
        if snapshot.world != self.world.spec.name:
            raise SnapshotError(f"the snapshot is of world {snapshot.world!r}; this one is {self.world.spec.name!r}")
        if snapshot.fingerprint != self._fingerprint:
            raise SnapshotError(f"the snapshot is of another version of world {snapshot.world!r}: "
                                f"{snapshot.fingerprint[:12]}, this one is {self._fingerprint[:12]}")

    def sibling(self) -> Self:
        """Another environment with the same task, world and fidelity, not yet reset; they share all of these."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.__dict__.pop("last_judgement", None)
        other._np_random = other._np_random_seed = None
        other.action_space, other.observation_space = self.played.action_space, self.played.observation_space
        other._forget()
        return other

    def branch(self, count: int) -> list[Self]:
        """`count` environments that go on from here, independently; they share the world and what has passed."""
        snapshot, branches = self.snapshot(), []
        for _ in range(count):
            other = self.sibling()
            other._np_random, other._np_random_seed = deepcopy(self.np_random), self.np_random_seed
            other.start = self.start
            other.last_judgement, other.last_trace = self.last_judgement, self.last_trace
            other.restore(snapshot)
            branches.append(other)
        return branches

    @property
    def lane(self) -> Lane:
        """Where the episode stands; ResetNeeded before the first reset."""
        if self._lane is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._lane

    @property
    def state(self) -> WorldState:
        """The rollout's state, one lane; what a planner inside the environment branches from."""
        return self.imagination.state_of(self.lane)

    @property
    def last_latents(self) -> Tensor:
        """The latent `[C, h, w]` of the frame on show; ResetNeeded at a start, whose frame was not imagined."""
        if self.lane.latent is None:
            raise gym.error.ResetNeeded("no frame has been imagined yet; call step() first")
        return self.lane.latent

    def _forget(self) -> None:
        """As if never reset."""
        self._lane, self.start = None, None
        self.elapsed, self.over = 0, False
        self.last_timing, self.last_trace = {}, None
        self._shown = []

    def _arrive(self, tick: Tick, timing: dict[str, float]) -> None:
        self._lane, self.last_judgement, self.last_trace = tick.lane, tick.judgement, tick.trace
        self.last_timing = timing
        if self.render_mode == "rgb_array_list":
            self._shown.append(tick.lane.pixels)

    def _observation(self) -> Observation:
        lane = self.lane
        return {"pixels": lane.pixels.copy(), "agent_pos": lane.agent.copy()}
