"""A state model of bodies in a plane: where they are, and where they go.  Trained on a simulator's poses.

How a pushed body turns is hard to learn from pixels; a network on poses sees a push for a thousandth of what it costs
a video transformer.  `Estimator` reads the poses of the bodies from the clean latents of a frame.  `ForwardModel`
predicts them under the actions, in the frame of the body itself, where a push is the same push wherever it happens.
`maps` draws the prediction for the transformer, whose tokens read it beside the latents (`control_channels`); pixels
come from the transformer alone.  A pose that is read carries noise, so an observer of fixed gain estimates it: what
follows from the estimates of the two frames before, corrected by what is read.  An imagined frame was drawn as
predicted, and corrects little; a seen one is the truth.

Easy to get wrong: two poses do not say how fast a body is that is still on its way to where the last action sent it.
So the forward model reads the action that led to the newer pose, too.  Poses are as in `wcsim.world.body_poses`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wcsim.errors import CheckpointError
from wcsim.world.batch_invariant import BatchInvariantConv2d, make_batch_invariant
from wcsim.world.body_poses import bump_maps, columns, difference, turn, turn_places, wrap
from wcsim.world.limits import check_sizes
from wcsim.world.state_model import StateModel

MAP_GAIN = 3.0
"""Height of a body's bump in its map."""


@dataclass(frozen=True, slots=True)
class BodyDynamicsConfig:
    """angled: for every body, whether it has an angle.  latent_shape: C, h, w.  actions: coordinates of an action.
    names: of the bodies; empty: `body_0` and so on.  extent: what the frame spans along x and y, in the task's units.
    labels: see `StateModel`.  action_is_place: whether actions are x and y of a place, in the units of the bodies.
    trust, trust_seen: how much of the pose of an imagined frame, and of a seen one, is predicted; the rest is read.
    keypoints: maps whose centres the estimator reads.  width, depth: of the hidden layers; multiples of 64 keep
    activations in whole vectors, so that a lane rounds alone as among others."""

    angled: tuple[bool, ...]
    latent_shape: tuple[int, int, int]
    actions: int
    names: tuple[str, ...] = ()
    extent: tuple[float, float] = (1.0, 1.0)
    labels: str = "privileged: poses of bodies"
    kind: Literal["body_dynamics"] = "body_dynamics"
    action_is_place: bool = False
    trust: float = 0.98
    trust_seen: float = 0.4
    keypoints: int = 32
    channels: int = 64
    width: int = 512
    depth: int = 3

    @property
    def bodies(self) -> tuple[str, ...]:
        """A name for every body."""
        return self.names or tuple(f"body_{number}" for number in range(len(self.angled)))

    @property
    def pose_size(self) -> int:
        """Numbers in a pose of all bodies."""
        return sum(2 + angle for angle in self.angled)

    @property
    def control_channels(self) -> int:
        """Maps that show a pose: one per body, two more where it has an angle."""
        return sum(1 + 2 * angle for angle in self.angled)


def previous_action(actions: Tensor, known: Tensor) -> Tensor:
    """The actions that led to frames, `[..., A + 1]`: coordinates `[..., A]`, and 1 where `known` `[...]`, else 0."""
    mask = known.unsqueeze(-1).to(actions)
    return torch.cat([actions * mask, mask], dim=-1)


def hidden(sizes: Sequence[int], out: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out))


class Estimator(nn.Module):
    """Reads poses from latent frames by the centres of learnt maps (spatial softmax; Finn et al. 2016,
    arXiv 1509.06113)."""

    rows: Tensor
    columns: Tensor

    def __init__(self, config: BodyDynamicsConfig) -> None:
        super().__init__()
        channels, height, width = config.latent_shape
        self.angled = config.angled
        conv = [BatchInvariantConv2d(before, config.channels, 3, padding=1)
                for before in (channels, config.channels, config.channels)]
        self.features = nn.Sequential(*(layer for each in conv for layer in (each, nn.SiLU())))
        self.keypoints = BatchInvariantConv2d(config.channels, config.keypoints, 1)
        read = 2 * config.keypoints
        self.places = nn.Linear(read, 2 * len(config.angled))
        self.angles = hidden([read, config.width // 2, config.width // 2], 2 * sum(config.angled))
        for name, size in (("rows", height), ("columns", width)):
            self.register_buffer(name, (torch.arange(size) + 0.5) * 2 / size - 1, False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Of latents `[B, C, h, w]` the places `[B, bodies, 2]` in [-1, 1] and, for each angle, its cosine and sine
        `[B, angles, 2]` up to length."""
        weight = self.keypoints(self.features(latents)).flatten(2).softmax(-1).view(
            len(latents), -1, len(self.rows), len(self.columns))
        x, y = (weight.sum(2) * self.columns).sum(-1), (weight.sum(3) * self.rows).sum(-1)
        centre = torch.cat([x, y], dim=1)
        return (self.places(centre).unflatten(1, (len(self.angled), 2)),
                self.angles(centre).unflatten(1, (sum(self.angled), 2)))

    def read(self, latents: Tensor) -> Tensor:
        """Poses `[..., P]` of latents `[..., C, h, w]`."""
        places, angles = self(latents.flatten(0, -4))
        turned = iter(torch.atan2(angles[..., 1], angles[..., 0]).unbind(1))
        parts = [torch.cat([place, next(turned).unsqueeze(1)], dim=1) if angle else place
                 for place, angle in zip(places.unbind(1), self.angled, strict=True)]
        poses: Tensor = torch.cat(parts, dim=1).unflatten(0, latents.shape[:-3])
        return poses


class ForwardModel(nn.Module):
    """One step of the bodies, seen from the first that has an angle.

    Features and changes are scaled to unit variance by buffers that training fills.
    """

    scale: Tensor
    offset: Tensor
    spread: Tensor

    def __init__(self, config: BodyDynamicsConfig) -> None:
        super().__init__()
        self.config = config
        example = torch.zeros(1, config.pose_size)
        action = torch.zeros(1, config.actions)
        size = self.features(example, example, previous_action(action, torch.ones(1)), action).shape[-1]
        self.layers = hidden([size, *[config.width] * config.depth], config.pose_size)
        self.register_buffer("offset", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("spread", torch.ones(config.pose_size))

    def _frame(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Place `[..., 2]` and angle `[...]` of the body from which the scene is seen."""
        for place, angle in columns(self.config.angled):
            if angle is not None:
                return pose[..., place], pose[..., angle]
        return torch.zeros_like(pose[..., :2]), torch.zeros_like(pose[..., 0])

    def features(self, before: Tensor, now: Tensor, last: Tensor, action: Tensor) -> Tensor:
        """What the layers read of two poses `[..., P]` one step apart, the `previous_action` between them `[..., A+1]`
        and an action `[..., A]`: everything as it is on the table, and seen from the body."""
        (centre, angle), bodies = self._frame(now), columns(self.config.angled)
        arrows = []
        for place, _ in bodies:
            at, was = now[..., place], before[..., place]
            arrows += [at - centre, was - centre, at - was]
        if self.config.action_is_place:
            reached, known = last[..., :-1], last[..., -1:]
            arrows += [action - centre, *(action - now[..., place] for place, _ in bodies)]
            arrows += [known * (reached - pose[..., place]) for pose in (before, now) for place, _ in bodies]
        # Turned at once: most of what a step of one lane takes is calls.
        seen = iter(turn(torch.stack(arrows, dim=-2), -angle.unsqueeze(-1)).unbind(-2))
        read = [action, last]
        for place, own in bodies:
            read += [now[..., place], next(seen), next(seen), next(seen)]
            if own is not None:
                read += [now[..., own : own + 1].cos(), now[..., own : own + 1].sin(),
                         wrap(now[..., own : own + 1] - before[..., own : own + 1])]
        read += seen
        return torch.cat(read, dim=-1)

    def change(self, now: Tensor, then: Tensor) -> Tensor:
        """From pose to pose `[..., P]`: how far every body goes, seen from the body, and how far it turns."""
        angled = self.config.angled
        return turn_places(angled, difference(angled, then, now), -self._frame(now)[1])

    def predict(self, before: Tensor, now: Tensor, last: Tensor, action: Tensor) -> Tensor:
        """The change to come in units of its spread, `[..., P]`."""
        read = (self.features(before, now, last, action) - self.offset) * self.scale
        change: Tensor = self.layers(read)
        return change

    def forward(self, before: Tensor, now: Tensor, last: Tensor, action: Tensor) -> Tensor:
        """The next pose `[..., P]`."""
        change = self.predict(before, now, last, action) * self.spread
        return now + turn_places(self.config.angled, change, self._frame(now)[1])

    def rollout(self, before: Tensor, now: Tensor, last: Tensor, actions: Tensor) -> list[Tensor]:
        """The poses `[N, P]` that follow two, one step apart, under actions `[N, k, A]`, one by one; `last` `[N, A+1]`
        is what `previous_action` makes of the one before."""
        played = [before, now]
        for action in actions.unbind(1):
            played.append(self(*played[-2:], last, action))
            last = previous_action(action, torch.ones_like(action[:, 0]))
        return played[2:]


class BodyDynamics(StateModel):
    """Estimator and forward model of a world; see the module.  What it remembers of a frame is the pose of its bodies;
    its quantities are `NAME`, x and y, and `NAME_angle` in radians."""

    def __init__(self, config: BodyDynamicsConfig) -> None:
        super().__init__()
        self.config, self.labels = config, config.labels
        self.memory_size, self.control_channels = config.pose_size, config.control_channels
        self.quantities = tuple(name for body, angle in zip(config.bodies, config.angled, strict=True)
                                for name in ((body, f"{body}_angle") if angle else (body,)))
        self.estimator, self.forward_model = Estimator(config), ForwardModel(config)
        make_batch_invariant(self)

    def update(self, memory: Tensor, latents: Tensor, actions: Tensor, known: Tensor, *, seen: bool) -> Tensor:
        """See `StateModel`; of the features of an action its coordinates come first.

        A frame is read alone where its own action is not known, or where nothing says how the bodies moved before; they
        were at rest in a past frame to which no known action led.
        """
        trust = self.config.trust_seen if seen else self.config.trust
        poses, coordinates = list(memory.unbind(1)), actions[..., : self.config.actions]
        for index, read in enumerate(self.estimator.read(latents).unbind(1)):
            frame = len(poses)
            if frame:
                before, last, moving = self._motion(poses, coordinates[:, frame - 1], known[:, frame - 1])
                expected = self.forward_model(before, poses[-1], last, coordinates[:, frame])
                predicted = known[:, frame] & (moving if index else moving | ~known[:, frame - 1])
                mixed = read + trust * difference(self.config.angled, expected, read)
                read = torch.where(predicted.unsqueeze(1), mixed, read)
            poses.append(read)
        return torch.stack(poses[memory.shape[1] :], dim=1)

    def _motion(self, poses: Sequence[Tensor], action: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pose `[N, P]` before the last one, the `previous_action` of the last, and whether it was moving `[N]`: at
        rest unless its `action` `[N, A]` is `known` `[N]`."""
        moving = known & (len(poses) > 1)
        before = torch.where(moving.unsqueeze(1), poses[max(0, len(poses) - 2)], poses[-1])
        return before, previous_action(action, moving), moving

    def predict(self, memory: Tensor, actions: Tensor, known: Tensor) -> Tensor:
        """See `StateModel`; the bodies are at rest in a frame to which no known action led."""
        count, coordinates = memory.shape[1], actions[..., : self.config.actions]
        before, last, _ = self._motion(memory.unbind(1), coordinates[:, count - 1], known[:, -1])
        return torch.stack(self.forward_model.rollout(before, memory[:, -1], last, coordinates[:, count:]), dim=1)

    def control(self, memory: Tensor, actions: Tensor, known: Tensor) -> Tensor:
        """See `StateModel` and `maps`."""
        return self.maps(torch.cat([memory, self.predict(memory, actions, known)], dim=1)).transpose(1, 2)

    def values(self, memory: Tensor) -> dict[str, np.ndarray]:
        """See `StateModel`."""
        poses, found = memory.cpu().numpy().astype(np.float64), dict[str, np.ndarray]()
        for name, (place, own) in zip(self.config.bodies, columns(self.config.angled), strict=True):
            found[name] = (poses[..., place] + 1) / 2 * np.array(self.config.extent)
            if own is not None:
                found[f"{name}_angle"] = poses[..., own : own + 1]
        return found

    def check(self, latent_shape: tuple[int, int, int], action_dim: int) -> None:
        """See `StateModel`."""
        config = self.config
        if (config.latent_shape, config.actions) != (latent_shape, action_dim):
            raise CheckpointError(f"the state model reads latents {config.latent_shape} and {config.actions} "
                                  f"coordinates of an action, the spec has {latent_shape} and {action_dim}")

    def maps(self, poses: Tensor) -> Tensor:
        """Poses `[..., P]` as maps `[..., K, h, w]`, body after body (`bump_maps`)."""
        rows, columns_ = self.estimator.rows, self.estimator.columns
        drawn = []
        for place, own in columns(self.config.angled):
            x, y = poses[..., place].unbind(-1)
            away = (rows - y.unsqueeze(-1)) * len(rows) / 2, (columns_ - x.unsqueeze(-1)) * len(columns_) / 2
            drawn += bump_maps(*away, None if own is None else poses[..., own], MAP_GAIN)
        return torch.stack(drawn, dim=-3)

    def save(self, folder: Path) -> None:
        """See `StateModel`; the weights in float32."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `StateModel`."""
        config = TypeAdapter(BodyDynamicsConfig).validate_json((folder / "config.json").read_text())
        check_sizes(folder, lambda: cls(config))
        dynamics = cls(config)
        dynamics.load_state_dict(load_file(folder / "model.safetensors"))
        return dynamics.eval()
