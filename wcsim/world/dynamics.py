"""Where bodies are, and where they go: a small network beside the transformer, which is told what it foretells.

How a pushed body turns hangs on a unit or two and takes millions of pushes to learn; a network on poses sees a push for
a thousandth of what it costs a video transformer.  So `Estimator` reads the poses of the bodies from the clean
latents of a frame, `ForwardModel` takes them on under the actions, in the frame of the body itself, where a push is
the same push wherever on the table it happens, and `maps` draws them for the transformer, whose tokens read them beside
the latents (`control_channels`).  Pictures come from the transformer alone.  What is read in one carries its noise, so
the pose of a frame is estimated by an observer of fixed gain: what follows from the estimates of the two frames before,
corrected by what is read.  An imagined frame was drawn as foretold, and corrects little; a seen one is the truth.

Two poses do not say how fast a body is that is still on its way to where the last action sent it: they say how far it
came.  So the forward model is told the action that led to the newer pose, too.

Poses are as `wcsim.world.poses` has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wcsim.world.poses import bump_maps, columns, difference, turn, turn_places, wrap
from wcsim.world.steady import SteadyConv2d, steady

MAP_GAIN = 3.0
"""Height of a body's bump in its map."""


@dataclass(frozen=True, slots=True)
class DynamicsConfig:
    """angled: for every body, whether it has an angle.  latent_shape: C, h, w.  actions: coordinates of an action.
    action_is_place: whether they are x and y of a place, in the same units as the bodies'.  trust, trust_seen: how much
    of the pose of an imagined frame, and of a seen one, is what the frames before it foretell; the rest is read.
    keypoints: maps whose centres the estimator reads.  width, depth: of the hidden layers; multiples of 64 keep
    activations in whole vectors, so that a lane rounds alone as among others."""

    angled: tuple[bool, ...]
    latent_shape: tuple[int, int, int]
    actions: int
    action_is_place: bool = False
    trust: float = 0.98
    trust_seen: float = 0.4
    keypoints: int = 32
    channels: int = 64
    width: int = 512
    depth: int = 3

    @property
    def pose_size(self) -> int:
        """Numbers in a pose of all bodies."""
        return sum(2 + angle for angle in self.angled)

    @property
    def control_channels(self) -> int:
        """Maps that show a pose: one per body, two more where it has an angle."""
        return sum(1 + 2 * angle for angle in self.angled)


def led(actions: Tensor, known: Tensor) -> Tensor:
    """What led to frames, `[..., A + 1]`: coordinates `[..., A]` and, as 1 or 0, whether they are `known` `[...]`."""
    said = known.unsqueeze(-1).to(actions)
    return torch.cat([actions * said, said], dim=-1)


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

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        channels, height, width = config.latent_shape
        self.angled = config.angled
        conv = [SteadyConv2d(before, config.channels, 3, padding=1)
                for before in (channels, config.channels, config.channels)]
        self.features = nn.Sequential(*(layer for each in conv for layer in (each, nn.SiLU())))
        self.keypoints = SteadyConv2d(config.channels, config.keypoints, 1)
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

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.config = config
        example = torch.zeros(1, config.pose_size)
        action = torch.zeros(1, config.actions)
        size = self.features(example, example, led(action, torch.ones(1)), action).shape[-1]
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
        """What the layers read of two poses `[..., P]` one step apart, what `led` from one to the other `[..., A+1]`
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
        told = [action, last]
        for place, own in bodies:
            told += [now[..., place], next(seen), next(seen), next(seen)]
            if own is not None:
                told += [now[..., own : own + 1].cos(), now[..., own : own + 1].sin(),
                         wrap(now[..., own : own + 1] - before[..., own : own + 1])]
        told += seen
        return torch.cat(told, dim=-1)

    def change(self, now: Tensor, then: Tensor) -> Tensor:
        """From pose to pose `[..., P]`: how far every body goes, seen from the body, and how far it turns."""
        angled = self.config.angled
        return turn_places(angled, difference(angled, then, now), -self._frame(now)[1])

    def predict(self, before: Tensor, now: Tensor, last: Tensor, action: Tensor) -> Tensor:
        """The change to come in units of its spread, `[..., P]`."""
        read = (self.features(before, now, last, action) - self.offset) * self.scale
        said: Tensor = self.layers(read)
        return said

    def forward(self, before: Tensor, now: Tensor, last: Tensor, action: Tensor) -> Tensor:
        """The next pose `[..., P]`."""
        change = self.predict(before, now, last, action) * self.spread
        return now + turn_places(self.config.angled, change, self._frame(now)[1])

    def play(self, before: Tensor, now: Tensor, last: Tensor, actions: Tensor) -> list[Tensor]:
        """The poses `[N, P]` that follow two, one step apart, under actions `[N, k, A]`, one by one; `last` `[N, A+1]`
        is what `led` to the second."""
        played = [before, now]
        for action in actions.unbind(1):
            played.append(self(*played[-2:], last, action))
            last = led(action, torch.ones_like(action[:, 0]))
        return played[2:]


class Dynamics(nn.Module):
    """Estimator and forward model of a world; see the module."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.config = config
        self.estimator, self.forward_model = Estimator(config), ForwardModel(config)
        steady(self)

    def estimate(self, past: Tensor, latents: Tensor, actions: Tensor, known: Tensor, *, seen: bool) -> Tensor:
        """Poses `[N, k, P]` of k new frames with latents `[N, k, C, h, w]` that follow m with the poses `[N, m, P]`.
        seen: whether they are frames of the truth, or imagined.

        actions: features `[N, m+k, F]` of what led to each frame, their coordinates first.  known: `[N, m+k]`, whether
        it is known.  A frame is read alone where its own action is not known, or where nothing says how the bodies
        moved before; they were at rest in a past frame to which no known action led.
        """
        trust = self.config.trust_seen if seen else self.config.trust
        poses, coordinates = list(past.unbind(1)), actions[..., : self.config.actions]
        for index, read in enumerate(self.estimator.read(latents).unbind(1)):
            frame = len(poses)
            if frame:
                before, last, moving = self._motion(poses, coordinates[:, frame - 1], known[:, frame - 1])
                expected = self.forward_model(before, poses[-1], last, coordinates[:, frame])
                told = known[:, frame] & (moving if index else moving | ~known[:, frame - 1])
                mixed = read + trust * difference(self.config.angled, expected, read)
                read = torch.where(told.unsqueeze(1), mixed, read)
            poses.append(read)
        return torch.stack(poses[past.shape[1] :], dim=1)

    def _motion(self, poses: Sequence[Tensor], action: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pose `[N, P]` before the last one, what `led` to the last, and whether it was moving, `[N]`: at rest
        unless its `action` `[N, A]` is `known` `[N]`."""
        moving = known & (len(poses) > 1)
        before = torch.where(moving.unsqueeze(1), poses[max(0, len(poses) - 2)], poses[-1])
        return before, led(action, moving), moving

    def foretell(self, past: Tensor, actions: Tensor, known: Tensor) -> Tensor:
        """Poses `[N, m+k, P]`: those `[N, m, P]` of m >= 1 past frames, and what follows under the last k of the
        actions' features `[N, m+k, F]`.  known: `[N, m]`; the bodies are at rest in a frame to which no known action
        led."""
        count, coordinates = past.shape[1], actions[..., : self.config.actions]
        before, last, _ = self._motion(past.unbind(1), coordinates[:, count - 1], known[:, -1])
        told = self.forward_model.play(before, past[:, -1], last, coordinates[:, count:])
        return torch.cat([past, torch.stack(told, dim=1)], dim=1)

    def control(self, past: Tensor, actions: Tensor, known: Tensor) -> Tensor:
        """The same as maps `[N, K, m+k, h, w]` for the transformer."""
        return self.maps(self.foretell(past, actions, known)).transpose(1, 2)

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
        """Write `config.json` and the weights, in float32."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        save_file(self.state_dict(), folder / "dynamics.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` has written."""
        dynamics = cls(TypeAdapter(DynamicsConfig).validate_json((folder / "config.json").read_text()))
        dynamics.load_state_dict(load_file(folder / "dynamics.safetensors"))
        return dynamics.eval()
