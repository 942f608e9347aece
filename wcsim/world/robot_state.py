"""A state model of the robot itself: its recorded state, read from latents and predicted from actions.

Every recording of a robot holds its own state (`observation.state`), so this needs no simulator and knows nothing of
the scene.  A reader says what a latent frame shows; a forward model says what an action does to it.  An observer of
fixed gain joins the two: what is read of an imagined frame corrects the prediction little.  Easy to get wrong: angles
wrap, so they are read and fed as cosine and sine, and differences go the short way round.

Shapes: `...` any leading axes, N lanes, m past frames, k new frames, P numbers of the state, A of an action.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wcsim.errors import CheckpointError
from wcsim.world.batch_invariant import BatchInvariantConv2d, make_batch_invariant
from wcsim.world.body_dynamics import hidden, previous_action
from wcsim.world.body_poses import wrap
from wcsim.world.limits import check_sizes
from wcsim.world.state_model import StateModel


@dataclass(frozen=True, slots=True)
class RobotStateConfig:
    """quantities: name and size of each, in order.  angles: for every number, whether it is an angle in radians.
    latent_shape: C, h, w.  actions: coordinates of an action.  trust: how much of the state of an imagined frame is
    predicted; the rest is read.  channels, keypoints: of the reader.  width, depth: of the layers that predict."""

    quantities: tuple[tuple[str, int], ...]
    angles: tuple[bool, ...]
    latent_shape: tuple[int, int, int]
    actions: int
    kind: Literal["robot_state"] = "robot_state"
    labels: str = "robot state"
    trust: float = 0.95
    channels: int = 32
    keypoints: int = 32
    width: int = 256
    depth: int = 3

    @property
    def size(self) -> int:
        """P."""
        return sum(size for _, size in self.quantities)


class Reader(nn.Module):
    """Reads the state of a latent frame by the centres of learnt maps (spatial softmax; Finn et al. 2016, arXiv
    1509.06113) and by their strongest values."""

    rows: Tensor
    columns: Tensor

    def __init__(self, config: RobotStateConfig, out: int) -> None:
        super().__init__()
        channels, height, width = config.latent_shape
        conv = [BatchInvariantConv2d(before, config.channels, 3, padding=1)
                for before in (channels, config.channels, config.channels)]
        self.features = nn.Sequential(*(layer for each in conv for layer in (each, nn.SiLU())))
        self.keypoints = BatchInvariantConv2d(config.channels, config.keypoints, 1)
        self.layers = hidden([3 * config.keypoints, config.width, config.width], out)
        for name, size in (("rows", height), ("columns", width)):
            self.register_buffer(name, (torch.arange(size) + 0.5) * 2 / size - 1, False)

    def forward(self, latents: Tensor) -> Tensor:
        """`[B, C, h, w]` to `[B, out]`."""
        maps = self.keypoints(self.features(latents))
        weight = maps.flatten(2).softmax(-1).view_as(maps)
        x, y = (weight.sum(2) * self.columns).sum(-1), (weight.sum(3) * self.rows).sum(-1)
        read: Tensor = self.layers(torch.cat([x, y, maps.amax((2, 3)) / 8], dim=1))
        return read


class RobotState(StateModel):
    """See the module.  Its memory of a frame is the state in the units of the recordings."""

    mean: Tensor
    std: Tensor
    spread: Tensor
    gain: Tensor
    angle: Tensor

    def __init__(self, config: RobotStateConfig) -> None:
        super().__init__()
        if len(config.angles) != config.size:
            raise CheckpointError(f"a robot state of {config.size} numbers says of {len(config.angles)} whether they "
                                  "are angles")
        self.config, self.labels, self.memory_size = config, config.labels, config.size
        self.quantities = tuple(name for name, _ in config.quantities)
        shown = config.size + sum(config.angles)
        self.reader = Reader(config, shown)
        seen = shown + config.size + 2 * config.actions + 1
        self.layers = hidden([seen, *[config.width] * config.depth], config.size)
        for name, value in (("mean", 0.0), ("std", 1.0), ("spread", 1.0), ("gain", 0.5)):
            self.register_buffer(name, torch.full((config.size,), value))
        self.register_buffer("angle", torch.tensor(config.angles), False)
        make_batch_invariant(self)

    def encode(self, state: Tensor) -> Tensor:
        """States `[..., P]` as networks see them: scaled, angles as cosine, and last their sines."""
        scaled = (state - self.mean) / self.std
        turned = state[..., self.angle]
        scaled = torch.where(self.angle, state.cos(), scaled)
        return torch.cat([scaled, turned.sin()], dim=-1)

    def decode(self, shown: Tensor) -> Tensor:
        """The reverse of `encode`."""
        plain, sines = shown[..., : self.config.size], shown[..., self.config.size :]
        state = plain * self.std + self.mean
        if sines.shape[-1] == 0:
            return state
        state = state.clone()
        state[..., self.angle] = torch.atan2(sines, plain[..., self.angle])
        return state

    def difference(self, then: Tensor, now: Tensor) -> Tensor:
        """`then` less `now`, `[..., P]`, angles the short way round."""
        return torch.where(self.angle, wrap(then - now), then - now)

    def read(self, latents: Tensor) -> Tensor:
        """States `[..., P]` of latents `[..., C, h, w]`."""
        states: Tensor = self.decode(self.reader(latents.flatten(0, -4))).unflatten(0, latents.shape[:-3])
        return states

    def change(self, before: Tensor, now: Tensor, last: Tensor, action: Tensor) -> Tensor:
        """The change to come in units of its spread, `[..., P]`, after two states one step apart, the `previous_action`
        `[..., A+1]` between them, and under an action `[..., A]`."""
        moved = self.difference(now, before) / self.spread
        change: Tensor = self.layers(torch.cat([self.encode(now), moved, last, action], dim=-1))
        return change

    def step(self, before: Tensor, now: Tensor, last: Tensor, action: Tensor) -> Tensor:
        """The next state `[..., P]`."""
        then = now + self.change(before, now, last, action) * self.spread
        return torch.where(self.angle, wrap(then), then)

    def rollout(self, before: Tensor, now: Tensor, last: Tensor, actions: Tensor) -> list[Tensor]:
        """The states `[N, P]` after each of the actions `[N, k, A]`."""
        played = [before, now]
        for action in actions.unbind(1):
            played.append(self.step(played[-2], played[-1], last, action))
            last = previous_action(action, torch.ones_like(action[:, 0]))
        return played[2:]

    def update(self, memory: Tensor, latents: Tensor, actions: Tensor, known: Tensor, *, seen: bool) -> Tensor:
        """See `StateModel`.  A frame is read alone where no known action led to it."""
        states, coordinates = list(memory.unbind(1)), actions[..., : self.config.actions]
        share = self.gain if seen else torch.full_like(self.gain, self.config.trust)
        for read in self.read(latents).unbind(1):
            frame = len(states)
            if frame:
                before, last = self._motion(states, coordinates[:, frame - 1], known[:, frame - 1])
                said = self.step(before, states[-1], last, coordinates[:, frame])
                mixed = read + share * self.difference(said, read)
                read = torch.where(known[:, frame].unsqueeze(1), mixed, read)
            states.append(read)
        return torch.stack(states[memory.shape[1] :], dim=1)

    def predict(self, memory: Tensor, actions: Tensor, known: Tensor) -> Tensor:
        """See `StateModel`."""
        count, coordinates = memory.shape[1], actions[..., : self.config.actions]
        before, last = self._motion(memory.unbind(1), coordinates[:, count - 1], known[:, -1])
        return torch.stack(self.rollout(before, memory[:, -1], last, coordinates[:, count:]), dim=1)

    def _motion(self, states: tuple[Tensor, ...] | list[Tensor], action: Tensor, known: Tensor
                ) -> tuple[Tensor, Tensor]:
        """The state before the last, and the `previous_action` of the last; at rest where none is known `[N]`."""
        moving = known & (len(states) > 1)
        before = torch.where(moving.unsqueeze(1), states[max(0, len(states) - 2)], states[-1])
        return before, previous_action(action, moving)

    def control(self, memory: Tensor, actions: Tensor, known: Tensor) -> Tensor:
        """None: the transformer is told nothing."""
        raise NotImplementedError("a robot state draws no maps: control_channels is 0")

    def values(self, memory: Tensor) -> dict[str, np.ndarray]:
        """See `StateModel`."""
        numbers = memory.cpu().numpy().astype(np.float64)
        ends = np.cumsum([size for _, size in self.config.quantities])
        return {name: numbers[..., end - size : end]
                for (name, size), end in zip(self.config.quantities, ends, strict=True)}

    def check(self, latent_shape: tuple[int, int, int], action_dim: int) -> None:
        """See `StateModel`."""
        if (self.config.latent_shape, self.config.actions) != (latent_shape, action_dim):
            raise CheckpointError(f"the state model reads latents {self.config.latent_shape} and {self.config.actions} "
                                  f"coordinates of an action, the spec has {latent_shape} and {action_dim}")

    def save(self, folder: Path) -> None:
        """See `StateModel`; the weights in float32."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `StateModel`."""
        config = TypeAdapter(RobotStateConfig).validate_json((folder / "config.json").read_text())
        check_sizes(folder, lambda: cls(config))
        model = cls(config)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()
