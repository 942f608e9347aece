"""The environment whose physics is a video world model.

One step: check the action, imagine one frame, decode it, estimate what it shows, return.  Between steps the rollout
remains in latents; pixels are made for the observer and never fed back.  Easy to get wrong: `info` holds deterministic
values only, and wall-clock times are beside it in `last_timing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Self

import gymnasium as gym
import numpy as np
from torch import Tensor

from wcsim.cache.fidelity import FidelityConfig, parse_fidelity
from wcsim.envs.agreement import check_world
from wcsim.envs.inputs import Inputs
from wcsim.envs.interface import Interface
from wcsim.envs.lanes import Imagination, Lane, Tick, fingerprint, load_world
from wcsim.envs.observations import Observation
from wcsim.envs.rates import rate
from wcsim.envs.resets import check_options, check_seed
from wcsim.envs.snapshots import EnvSnapshot, check_whole, own_state
from wcsim.envs.tasks import Start, make_task
from wcsim.envs.unmoved import unmoved
from wcsim.errors import ConfigError, SnapshotError
from wcsim.estimate import Estimate
from wcsim.spans import Spans
from wcsim.types import Trace, WorldState
from wcsim.world.noise import PLANNING, stream_seeds

__all__ = ["EnvSnapshot", "ImaginedEnv", "Observation", "load_world"]

StepResult = tuple[Any, float, bool, bool, dict[str, Any]]

CAPTIONS = {True: "uncached", False: "cached"}
"""What a recorder writes over the frames, by whether the cache is off."""


class ImaginedEnv(gym.Env[Any, np.ndarray]):
    """A task played inside a world.

    task, task_options: what to play (`wcsim.envs.tasks`).  world: a shipped world's name or a folder.  fidelity: how
    well to imagine, a mapping with any fields of `wcsim.types.Fidelity`; the cache is a preset's name or its settings,
    `wcsim` where none is named.  compiled: whether `torch.compile` makes graphs of what every step runs; the first
    steps wait for them, and they round otherwise.  truncate: end an episode after the task's `max_episode_steps`;
    otherwise that is left to a wrapper.  action_space, obs_type: see `wcsim.envs.interface.Interface`.  The attribute
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
    inputs: Inputs
    """Checks what an environment is given."""
    _lane: Lane | None
    _shown: list[np.ndarray]
    last_estimate: Estimate
    """What the task's estimator says of the frame on show; there is none before a reset."""

    def __init__(
        self,
        task: str,
        world: str,
        *,
        fidelity: Mapping[str, Any] | FidelityConfig | None = None,
        task_options: Mapping[str, Any] | None = None,
        device: str = "cpu",
        compiled: bool = False,
        truncate: bool = False,
        render_mode: str | None = None,
        action_space: str = "task",
        obs_type: str = "pixels_agent_pos",
    ) -> None:
        check_render_mode(render_mode)
        config = parse_fidelity(fidelity, cache="wcsim")
        self.played = make_task(task, **(task_options or {}))
        self.interface = Interface(self.played, action_space=action_space, obs_type=obs_type)
        self.task = self.played.name
        self._max_episode_steps = self.played.max_episode_steps
        self.horizon = self._max_episode_steps if truncate else None
        self.world = load_world(world, device=device, compiled=compiled)
        check_world(self.played, self.world.spec)
        self.fidelity = config.build(self.world.spec)
        self.inputs = self.imagination = Imagination(self.played, self.world, self.fidelity)
        self.caption = CAPTIONS[config.cache.kind == "none"]
        self._world_name, self._fingerprint = self.world.spec.name, fingerprint(world)
        self.metadata = {**self.metadata, "render_fps": rate(self.world.spec.fps)}
        self.render_mode = render_mode
        self.action_space, self.observation_space = self.interface.action_space(), self.interface.observation_space()
        self._forget()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode at the start that belongs to `seed` (drawn where None).

        options: `{"start": Start}` begins at frames of your own instead; the seed then numbers the noise alone.  What
        is refused leaves the episode and the generator as they were.
        """
        seed, given = check_seed(seed), check_options(options, ("start",)).get("start")
        generator, own_seed = (deepcopy(self.np_random), self.np_random_seed) if seed is None else (
            gym.utils.seeding.np_random(seed))
        episode_seed = int(generator.integers(2**31)) if seed is None else seed
        start = self.inputs.check_start(self.played.start(episode_seed) if given is None else given)
        tick = self._begin(start, episode_seed)
        self._np_random, self._np_random_seed = generator, own_seed
        self._forget()
        self.start = start
        self._arrive(tick, {})
        return self._observation(), tick.info

    def step(self, action: np.ndarray) -> StepResult:
        """Imagine one control tick under `action` `[A]`."""
        lane = self.lane
        actions = self.inputs.check(self.interface.to_task(action), ())[None]
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
        checked = self.imagination.check(self.interface.to_task(actions), (len(actions),))[None]
        (self._lane,) = self.imagination.expect([lane], checked, spans, together=together)

    def anchor(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Take really seen frames `[T, H, W, 3]` and the actions `[T-1, A]` between them for the past from now on."""
        self._lane = self.imagination.anchor(self.lane, frames, actions)

    def render(self) -> Any:
        """The frame on show, or all frames since the last call, uint8 `[H, W, 3]`."""
        lane = self.lane
        if self.render_mode == "rgb_array":
            return lane.pixels.copy()
        return self._take_shown() if self.render_mode == "rgb_array_list" else None

    def panels(self) -> tuple[dict[str, list[np.ndarray]], list[float]]:
        """What a recorder shows: frames since the last call by caption, and errors per tick, of which there are none
        here.  It uses up the frames of `rgb_array_list`."""
        return {self.caption: self._take_shown()}, []

    def snapshot(self) -> EnvSnapshot:
        """The present as a value; no frame or latent is copied.

        Wrappers (a time limit, say) keep their own counts and are not part of it.
        """
        if self._lane is None:
            raise SnapshotError("the environment has not been reset yet; call reset() before snapshot()")
        generator = deepcopy(self.np_random.bit_generator.state)
        return EnvSnapshot(self._world_name, self._fingerprint, self._lane, self.elapsed, self.over, generator)

    def restore(self, snapshot: EnvSnapshot) -> Any:
        """Return to a snapshot of this world, from this environment or another; the observation at that point."""
        self.check_snapshot(snapshot)
        with unmoved(self):
            self._lane, self.elapsed, self.over = snapshot.lane, snapshot.elapsed, snapshot.over
            self.np_random.bit_generator.state = deepcopy(snapshot.generator)
            self._shown = [snapshot.lane.pixels]
            if self.interface.obs_type == "state":
                self.last_estimate = self.played.estimate(snapshot.lane.pixels[None])
            return self._observation()

    def check_snapshot(self, snapshot: EnvSnapshot) -> None:
        """Raise SnapshotError unless the snapshot is of this very world."""
        if not isinstance(snapshot, EnvSnapshot):
            raise SnapshotError(f"an environment returns to an EnvSnapshot, got {type(snapshot).__name__}")
        if snapshot.world != self._world_name:
            raise SnapshotError(f"the snapshot is of world {snapshot.world!r}; this one is {self._world_name!r}")
        if snapshot.fingerprint != self._fingerprint:
            raise SnapshotError(f"the snapshot is of another version of world {snapshot.world!r}: "
                                f"{str(snapshot.fingerprint)[:12]}, this one is {self._fingerprint[:12]}")
        self._check_whole(snapshot)

    def sibling(self) -> Self:
        """Another environment with the same task, world and fidelity, not yet reset; they share all of these."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.__dict__.pop("last_estimate", None)
        other._np_random = other._np_random_seed = None
        other.action_space, other.observation_space = self.interface.action_space(), self.interface.observation_space()
        other._forget()
        return other

    def as_lane(self, number: int) -> Self:
        """This environment, from now on known as a lane of a vector environment."""
        self.number = number
        return self

    def branch(self, count: int) -> list[Self]:
        """`count` environments that go on from here, independently; they share the world and what has passed."""
        snapshot, branches = self.snapshot(), []
        for _ in range(count):
            other = self.sibling()
            other._np_random, other._np_random_seed = deepcopy(self.np_random), self.np_random_seed
            other.start = self.start
            other.last_estimate, other.last_trace = self.last_estimate, self.last_trace
            other.restore(snapshot)
            branches.append(other)
        return branches

    @property
    def task_description(self) -> str:
        """The instruction of this episode, or the task's."""
        return (self.start.instruction if self.start else "") or self.played.description

    @property
    def lane(self) -> Lane:
        """Where the episode stands; ResetNeeded before the first reset."""
        if self._lane is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._lane

    @property
    def state(self) -> WorldState:
        """The rollout's state, one lane, a copy; what a planner inside the environment branches from.

        Its noise is of a stream of its own, so what a planner imagines is another sample than what the environment will
        show.  `snapshot().state` shares the noise of the environment: whoever plans on that sees the future, not a
        guess, and looks better than it is.
        """
        state = own_state(self.imagination.state_of(self.lane))
        return replace(state, seed=stream_seeds(state.seed, PLANNING))

    @property
    def last_latents(self) -> Tensor:
        """The latent `[C, h, w]` of the frame on show, a copy; ResetNeeded at a start, whose frame was not imagined."""
        if self.lane.latent is None:
            raise gym.error.ResetNeeded("no frame has been imagined yet; call step() first")
        return self.lane.latent.clone()

    @property
    def begun(self) -> bool:
        """Whether it has ever been reset."""
        return self._lane is not None

    def _check_whole(self, snapshot: EnvSnapshot) -> None:
        check_whole(snapshot, self.world, self.played)

    def _begin(self, start: Start, seed: int) -> Tick:
        """A lane at a checked start."""
        return self.imagination.begin(start, seed)

    def _forget(self) -> None:
        """As if never reset."""
        self._lane, self.start = None, None
        self.elapsed, self.over = 0, False
        self.last_timing, self.last_trace = {}, None
        self._shown = []

    def _arrive(self, tick: Tick, timing: dict[str, float]) -> None:
        self._lane, self.last_estimate, self.last_trace = tick.lane, tick.estimate, tick.trace
        self.last_timing = timing
        if self.render_mode == "rgb_array_list":
            self._shown.append(tick.lane.pixels)

    def _observation(self) -> Any:
        return self.interface.observe(self.lane.pixels, self.lane.robot, lambda: self.last_estimate)

    def _take_shown(self) -> list[np.ndarray]:
        """The frames that no `render` has returned yet, as copies."""
        shown, self._shown = self._shown, []
        return [frame.copy() for frame in shown]


def check_render_mode(mode: str | None) -> None:
    """ConfigError unless an environment can render so."""
    known = ImaginedEnv.metadata["render_modes"]
    if mode is not None and mode not in known:
        raise ConfigError(f"render_mode {mode!r} is unknown; known: {', '.join(known)}")
