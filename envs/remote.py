"""The imagined environment whose world is on a server: `gym.make("wcsim/Remote-v0", address="ws://host:port")`.

Spaces, episodes, snapshots and `info` are those of `ImaginedEnv`, to the last bit where the server computes on a CPU.
Easy to get wrong: the task is made here too (for spaces, starts and the instruction), so its options must be those that
the server has; a server's word never decides which module is imported.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from wcsim.cache.fidelity import parse_fidelity
from wcsim.envs.imagined import CAPTIONS, ImaginedEnv, StepResult
from wcsim.envs.inputs import Inputs
from wcsim.envs.interface import Interface
from wcsim.envs.lanes import Lane, Tick, read_only
from wcsim.envs.rates import rate
from wcsim.envs.remote_line import Line
from wcsim.envs.remote_messages import ELSEWHERE, pack_start, unpack_tick
from wcsim.envs.remote_session import RemoteSession
from wcsim.envs.snapshots import EnvSnapshot, pack_snapshots, unpack_snapshots
from wcsim.envs.tasks import TASKS, Start, Task, make_task
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.errors import ConfigError
from wcsim.spans import Spans
from wcsim.types import WorldState
from wcsim.world.noise import PLANNING, stream_seeds


class RemoteEnv(ImaginedEnv):
    """A task played inside a world that a server has (`wcsim serve`).

    address: `ws://host:port`.  token: where the server wants one; None: the environment variable `WCSIM_TOKEN`.  task:
    None takes the server's, if it is one that ships.  task_options, fidelity, truncate, render_mode, action_space,
    obs_type: as of `ImaginedEnv`.  timeout_s: for every answer.  retry_s: how long to try again after a broken
    connection; the episode then goes on where it was.  snapshot_every: steps between the snapshots that this starts
    from.  `last_timing` has the spans `network`, `queue` and `step` beside the world's own.
    """

    def __init__(
        self, address: str, *, token: str | None = None, task: str | None = None,
        task_options: Mapping[str, Any] | None = None, fidelity: Mapping[str, Any] | None = None,
        truncate: bool = False, render_mode: str | None = None, timeout_s: float = 60.0, retry_s: float = 30.0,
        snapshot_every: int = 32, action_space: str = "task", obs_type: str = "pixels_agent_pos",
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            known = ", ".join(self.metadata["render_modes"])
            raise ConfigError(f"render_mode {render_mode!r} is unknown; known: {known}")
        if snapshot_every < 1 or timeout_s <= 0 or retry_s < 0:
            raise ConfigError("snapshot_every must be at least 1, timeout_s above 0 and retry_s at least 0; got "
                              f"{snapshot_every}, {timeout_s} and {retry_s}")
        config = parse_fidelity(fidelity, cache="wcsim")
        line = Line(address, token=token, timeout_s=timeout_s)
        try:
            self._take_task(line.hello, task, task_options or {})
            self.interface = Interface(self.played, action_space=action_space, obs_type=obs_type)
        except BaseException:
            line.close()
            raise
        self.action_space, self.observation_space = self.interface.action_space(), self.interface.observation_space()
        self.horizon = self._max_episode_steps if truncate else None
        self.caption = CAPTIONS[config.cache.kind == "none"]
        self.render_mode = render_mode
        settings: dict[str, Any] = {"fidelity": dict(fidelity)} if fidelity else {}
        self._snapshot_every, self._retry_s = snapshot_every, retry_s
        self._use(RemoteSession(line, settings, snapshot_every=snapshot_every, retry_s=retry_s))
        self._forget()

    def _take_task(self, hello: Mapping[str, Any], task: str | None, options: Mapping[str, Any]) -> None:
        """The task of the server's world, made here."""
        if task is None and hello["task"] not in TASKS.shipped:
            raise ConfigError(f"the server plays {str(hello['task'])[:100]!r}, which does not ship with wcsim; "
                              "give it as task=")
        self.played = make_task(task or hello["task"], **options)
        self.task = self.played.name
        check_task(self.played, hello)
        self._max_episode_steps = self.played.max_episode_steps
        self._world_name, self._fingerprint = hello["world"], hello["fingerprint"]
        self.metadata = {**self.metadata, "render_fps": rate(float(hello["fps"]))}
        self.inputs = Inputs(self.played)

    @property
    def reconnects(self) -> int:
        """How often the session was opened again after a broken connection."""
        return self.session.reconnects

    def step(self, action: np.ndarray) -> StepResult:
        """One control tick under `action` `[A]`; no request where it was announced by `expect`."""
        _ = self.lane
        actions = self.inputs.check(self.interface.to_task(action), ())
        spans = Spans()
        self.session.timing = {}
        with spans("remote"):
            tick = self.session.step(actions)
        return self.take(tick, {**spans.ms(), **self.session.timing})

    def expect(self, actions: np.ndarray, *, together: bool = True) -> None:
        """Have the frames of the next actions `[k, A]` imagined now, in one request; see `ImaginedEnv.expect`."""
        _ = self.lane
        checked = self.inputs.check(self.interface.to_task(actions), (len(actions),))
        self.session.announced(self.session.announce(checked, together=together))

    def anchor(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Take really seen frames `[T, H, W, 3]` and the actions `[T-1, A]` between them for the past from now on."""
        _ = self.lane
        self.session.anchor(*self.inputs.check_past(frames, actions))

    def snapshot(self) -> EnvSnapshot:
        """The present, fetched whole: it can be saved, and restored in a local environment of the same world."""
        if not self.begun:
            return super().snapshot()
        told = self.session.snapshot()
        (snapshot,) = unpack_snapshots(told["tensors"], told["description"], where="the server's answer")
        mine = super().snapshot()
        return replace(snapshot, elapsed=mine.elapsed, over=mine.over, generator=mine.generator)

    def restore(self, snapshot: EnvSnapshot) -> Any:
        """Return to a snapshot of this world, from this environment or another, remote or local."""
        self.check_snapshot(snapshot)
        tensors, description = pack_snapshots([snapshot])
        self.session.begin("restore", tensors=tensors, description=description)
        return super().restore(replace(snapshot, lane=shown_of(snapshot.lane)))

    def sibling(self) -> Self:
        """Another environment with the same task, world and fidelity, not yet reset, on the same connection."""
        other = super().sibling()
        mine = self.session
        other._use(RemoteSession(
            mine.line, mine.settings, snapshot_every=self._snapshot_every, retry_s=self._retry_s))
        return other

    def branch(self, count: int) -> list[Self]:
        """`count` environments that go on from here, independently; the server copies no frame."""
        numbers = self.session.ask("branch", count=count)["sessions"]
        branches = []
        for number in numbers:
            other = self.sibling()
            other.session.adopt(int(number), self.session)
            other.__dict__.update({name: self.__dict__[name] for name in (
                "start", "last_estimate", "last_trace", "last_timing", "elapsed", "over", "_lane")})
            other._np_random_seed = self.np_random_seed
            other.np_random.bit_generator.state = self.np_random.bit_generator.state
            other._shown = [self.lane.pixels]
            branches.append(other)
        return branches

    @property
    def state(self) -> WorldState:
        """The rollout's state, one lane, fetched from the server; its noise is of a stream of its own."""
        told = self.session.ask("look", state=True)
        state = WorldState(**{name: torch.from_numpy(np.array(value)) for name, value in told["state"].items()})
        return replace(state, seed=stream_seeds(state.seed, PLANNING))

    @property
    def last_latents(self) -> Tensor:
        """The latent `[C, h, w]` of the frame on show, fetched; ResetNeeded at a start."""
        _ = self.lane
        latents = self.session.ask("look", latents=True)["latents"]
        if latents is None:
            raise gym.error.ResetNeeded("no frame has been imagined yet; call step() first")
        return torch.from_numpy(np.array(latents))

    def close(self) -> None:
        """End the session; the connection ends with its last one."""
        self._finalizer()

    def _use(self, session: RemoteSession) -> None:
        self.session = session
        self._finalizer = weakref.finalize(self, session.close)

    def _check_whole(self, snapshot: EnvSnapshot) -> None:
        """The server checks what it is sent."""

    def _begin(self, start: Start, seed: int) -> Tick:
        return unpack_tick(self.session.begin("reset", seed=seed, start=pack_start(start))["tick"])


class RemoteVectorEnv(ImaginedVectorEnv):
    """The vector form of `RemoteEnv`, which takes the same settings: all lanes share one connection, and the server
    imagines them in one batch."""

    single = RemoteEnv
    envs: list[RemoteEnv]  # type: ignore[assignment]  # lanes are `single`

    def expect(self, actions: Any) -> None:
        """Have the frames of the next actions `[N, k, A]` of all lanes imagined together."""
        array = self._array(actions, axes=3)
        checked = self.envs[0].inputs.check(self.envs[0].interface.to_task(array), array.shape[:2])
        self._announce(list(range(self.num_envs)), checked, together=True)

    def _imagine(self, going: list[int], actions: np.ndarray) -> Spans:
        """Ask for the frames of the lanes `going` at once; their steps find them here."""
        spans = Spans()
        if not going:
            return spans
        first, outer = self.envs[0], self.lanes[0]
        asked = first.interface.to_task(actions[going])
        checked = first.inputs.check(asked, (len(going), *self._action_shape[:-1]))
        together = bool(outer.get_wrapper_attr("together")) if outer.has_wrapper_attr("together") else True
        with spans("remote"):
            self._announce(going, checked.reshape(len(going), -1, checked.shape[-1]), together=together)
        self.last_timing = dict(self.envs[going[0]].session.timing)
        return spans

    def _announce(self, going: list[int], actions: np.ndarray, *, together: bool) -> None:
        if any(not self.envs[n].begun for n in going):
            raise gym.error.ResetNeeded("call reset() first")
        sessions = [self.envs[n].session for n in going]
        asked = [one.announce(chunk, together=together) for one, chunk in zip(sessions, actions, strict=True)]
        for one, request in zip(sessions, asked, strict=True):
            one.announced(request)


def shown_of(lane: Lane) -> Lane:
    """What a client has of a lane."""
    return Lane(ELSEWHERE, read_only(np.array(lane.pixels)), read_only(np.array(lane.robot)))


def check_task(task: Task, hello: Mapping[str, Any]) -> None:
    """ConfigError unless a task has the frames and actions of the served world."""
    ours: dict[str, Any] = {"frame_size": list(task.frame_size), "low": list(task.action.low),
                            "high": list(task.action.high)}
    theirs = {"frame_size": list(hello["frame_size"]), "low": list(hello["action"]["low"]),
              "high": list(hello["action"]["high"])}
    if ours != theirs:
        raise ConfigError(f"the served world {hello['world']!r} has {theirs}; task {task.name!r} has {ours}")

