"""Policies learnt from demonstrations: a small network from where robot and scene are to a chunk of actions.

Two kinds share it: `regression` says the mean of what the demonstrator did (behaviour cloning), `flow` draws from all
that it did, by way of a straight path from noise (rectified flow, arXiv 2209.03003), whose end the network predicts.
Easy to get wrong: where actions are places, a chunk is of offsets from where the robot is when it is made.  Shapes: B
batch, k ticks of history, H ticks of a chunk, A action, D numbers of a chunk (H A), F features, R robot, S scene.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from wcsim.agents.policies import Observations, active_of, masked, stack
from wcsim.agents.sights import sight_of
from wcsim.errors import CheckpointError, ConfigError
from wcsim.estimate import Episode

if TYPE_CHECKING:
    from wcsim.agents.reports import ActReport
    from wcsim.types import ActionSpec

FORMAT = "wcsim-policy-1"
"""What a policy's file says it is."""

TIME_OCTAVES = 4
"""The flow's time is shown as sines and cosines of pi 2^o t for o below this."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What a policy's file holds beside its weights.

    kind: `regression` or `flow`.  history: ticks that it looks back on.  horizon: ticks of a chunk.  width, depth: of
    the network.  low, high: of the actions, by which lengths are scaled.  draws: Euler steps of a flow.  task: that it
    was learnt on, which says how states are read (`wcsim.agents.sights`).
    """

    kind: Literal["regression", "flow"]
    history: int
    horizon: int
    width: int
    depth: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    draws: int = 8
    task: str = "pusht"


class Residual(nn.Module):
    """x + W2 silu(W1 norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.into, self.out = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, width]` to the same."""
        out: Tensor = x + self.out(F.silu(self.into(self.norm(x))))
        return out


class ChunkNetwork(nn.Module):
    """Features to a chunk, for a flow given where on the way from noise it is.  Chunks are in units of `spread` around
    `centre`, `[D]` each."""

    centre: Tensor
    spread: Tensor

    def __init__(self, settings: PolicySettings) -> None:
        super().__init__()
        self.settings = settings
        numbers = settings.horizon * len(settings.low)
        more = numbers + 2 * TIME_OCTAVES if settings.kind == "flow" else 0
        self.enter = nn.Linear(sight_of(settings.task).numbers * settings.history + more, settings.width)
        self.blocks = nn.Sequential(*(Residual(settings.width) for _ in range(settings.depth)))
        self.leave = nn.Sequential(nn.LayerNorm(settings.width), nn.Linear(settings.width, numbers))
        self.register_buffer("centre", torch.zeros(numbers))
        self.register_buffer("spread", torch.ones(numbers))

    def forward(self, features: Tensor, chunk: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        """`[B, F]` (and for a flow, where it is: `[B, D]` at time `[B]` in [0, 1]) to `[B, D]`."""
        given = [features]
        if chunk is not None and time is not None:
            phase = torch.pi * time[:, None] * 2.0 ** torch.arange(TIME_OCTAVES, device=time.device)
            given += [chunk, phase.sin(), phase.cos()]
        out: Tensor = self.leave(self.blocks(self.enter(torch.cat(given, dim=1))))
        return out

    def loss(self, features: Tensor, chunk: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """What training lowers, for scaled chunks `[B, D]`; a regression reads neither noise `[B, D]` nor time
        `[B]`."""
        if self.settings.kind == "regression":
            return F.smooth_l1_loss(self(features), chunk)
        return F.mse_loss(self(features, torch.lerp(noise, chunk, time[:, None]), time), chunk)

    @torch.no_grad()
    def draw(self, features: Tensor, noise: Tensor) -> Tensor:
        """Offsets `[B, H, A]` for features `[B, F]`; a flow begins at noise `[B, D]`."""
        settings, chunk = self.settings, noise
        if settings.kind == "regression":
            chunk = self(features)
        else:
            for step in range(settings.draws):
                time = torch.full((len(features),), step / settings.draws)
                chunk = torch.lerp(chunk, self(features, chunk, time), 1.0 / (settings.draws - step))
        offsets: Tensor = (chunk * self.spread + self.centre).unflatten(1, (settings.horizon, -1))
        return offsets


@dataclass(slots=True)
class Memory:
    """What a policy keeps of one lane.  scene: `[S]` where it was last seen.  past: features of the last ticks.  queue:
    actions `[A]` of the chunk that are still to be played.  origin: `[A]` or 0, what chunks are offsets from now."""

    rng: np.random.Generator
    scene: np.ndarray
    past: list[np.ndarray] = field(default_factory=list)
    queue: list[np.ndarray] = field(default_factory=list)
    origin: np.ndarray | float = 0.0


class LearnedPolicy:
    """Plays chunks of `network` in N lanes, from `agent_pos` `[N, R]` and `environment_state` `[N, S]`.

    Lanes whose chunks have been played share one forward pass; it says in each what it says of that lane alone, to
    1e-6 of the action range.  execute: ticks of a chunk to play before the next is made.  seed: numbers a flow's draws,
    with the episode.  What of the scene is not seen (NaN) is taken to be where it was last, or in the middle.
    """

    def __init__(
        self, network: ChunkNetwork, action: ActionSpec, num_lanes: int, *, execute: int = 2, seed: int = 0
    ) -> None:
        settings = network.settings
        if (settings.low, settings.high) != (action.low, action.high):
            raise ConfigError(f"the policy learnt actions from {settings.low} to {settings.high}; here they go from "
                              f"{action.low} to {action.high}")
        if not 1 <= execute <= settings.horizon:
            raise ConfigError(f"execute must be 1 to {settings.horizon} actions of a chunk, got {execute}")
        self._network, self._execute, self._seed = network.eval(), execute, seed
        self._sight = sight_of(settings.task)
        self._low, self._high = np.asarray(action.low), np.asarray(action.high)
        self._lanes: list[Memory | None] = [None] * num_lanes
        self.reports: Sequence[ActReport | None] = [None] * num_lanes

    def reset(self, mask: np.ndarray, episodes: Sequence[Episode]) -> None:
        """See `Policy`; a flow's draws follow from the episode's number."""
        for lane in masked(mask, episodes, len(self._lanes)):
            self._lanes[lane] = Memory(np.random.default_rng([self._seed, episodes[lane].number]),
                                       np.array(self._sight.unseen))

    def act(self, observations: Observations, steps_left: int | None = None) -> np.ndarray:
        """See `Policy`; not clipped."""
        memories = {int(lane): self._look(observations, int(lane))
                    for lane in np.flatnonzero(active_of(observations, len(self._lanes)))}
        empty = [memory for memory in memories.values() if not memory.queue]
        if empty:
            noise = np.concatenate([memory.rng.standard_normal((1, len(self._network.centre))) for memory in empty])
            features = torch.from_numpy(np.stack([np.concatenate(memory.past) for memory in empty]))
            offsets = self._network.draw(features, torch.from_numpy(noise.astype(np.float32))).double().numpy()
            for memory, chunk in zip(empty, offsets, strict=True):
                memory.queue = list(memory.origin + chunk[: self._execute])
        return stack({lane: memory.queue.pop(0) for lane, memory in memories.items()}, len(self._lanes))

    def _look(self, observations: Observations, lane: int) -> Memory:
        """What is remembered of a lane, with what it shows now."""
        memory = self._lanes[lane]
        if memory is None:
            raise ConfigError(f"no episode has begun in lane {lane}; call reset() before act()")
        robot = np.asarray(observations["agent_pos"][lane], np.float64)
        scene = np.asarray(observations["environment_state"][lane], np.float64)
        sight, wanted = self._sight, [(self._sight.robot,), (len(self._sight.unseen),)]
        if [robot.shape, scene.shape] != wanted:
            raise ConfigError(f"the policy learnt task {self._network.settings.task!r} and reads a robot's state "
                              f"{list(wanted[0])} and a scene's {list(wanted[1])}; here they are {list(robot.shape)} "
                              f"and {list(scene.shape)}")
        memory.scene = scene if np.isfinite(scene).all() else memory.scene
        memory.origin = robot[: len(self._low)] if sight.anchored else 0.0
        now, history = sight.read(robot, memory.scene, self._low, self._high), self._network.settings.history
        memory.past = [*(memory.past or [now] * history), now][-history:]
        return memory


def shipped_policies() -> dict[str, Path]:
    """The policies inside the package, by name."""
    root = Path(str(resources.files("wcsim.assets"))) / "policies"
    return {path.stem: path for path in sorted(root.glob("*.safetensors"))}


def save_policy(path: Path, network: ChunkNetwork) -> None:
    """Write weights and settings as one safetensors file."""
    description = {"format": FORMAT, "settings": json.dumps(asdict(network.settings))}
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path, metadata=description)


def find_policy(name: str | Path) -> Path:
    """The file of a shipped policy by name, or of any by path.  CheckpointError where there is none."""
    path = Path(name) if Path(name).is_file() else shipped_policies().get(str(name))
    if path is None:
        known = ", ".join(shipped_policies()) or "none"
        raise CheckpointError(f"policy {str(name)!r} is neither a file nor shipped; shipped: {known}")
    return path


def load_policy(name: str | Path) -> ChunkNetwork:
    """A shipped policy by name, or any by path.  CheckpointError where there is none, or the file is none."""
    path = find_policy(name)
    try:
        with safe_open(path, framework="pt") as file:
            description = file.metadata() or {}
            if description.get("format") != FORMAT:
                raise CheckpointError(f"{path} is not a policy of format {FORMAT}, it says "
                                      f"{description.get('format')!r}")
            settings = json.loads(description["settings"])
            bounds = {key: tuple(settings[key]) for key in ("low", "high")}
            network = ChunkNetwork(PolicySettings(**{**settings, **bounds}))
            network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118  no mapping
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return network.eval().requires_grad_(False)
