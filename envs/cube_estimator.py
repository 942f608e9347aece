"""Where arm and cube are in frames of the arm: a small network, trained on simulator frames alone.

It serves the truth, worlds and policies alike, and was never in a world's loss.  The yaw of the hand it does not read:
96 pixels hardly show it, and the arm reports it.  Whether something is there at all is
not its to say: it would answer for an empty table too, so that is read from the colours of cube and gripper, which
nothing else on the table has.  Easy to get wrong: frames go through it one by one, so that a lane's numbers do not
round by how many others there are.

Shapes: N frames, H W of a frame.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wcsim.envs.cube_truth import CUBE_SYMMETRY
from wcsim.errors import ConfigError

if TYPE_CHECKING:
    import torch

WEIGHTS = Path(__file__).parent / "cube_estimator.safetensors"
SHA256 = "f8b3983615a9b013adadc6463169bfc9a98033d2116a96d46e83b874430fe939"
OUTPUTS = 11
"""Effector x y z, cosine and sine of its yaw, gripper, cube x y z, cosine and sine of its yaw times four."""
CENTRE = np.array([42.5, 0.0, 12.0, 0.0, 0.0, 0.4, 42.5, 0.0, 4.0, 0.0, 0.0])
SCALE = np.array([10.0, 12.0, 10.0, 1.0, 1.0, 0.4, 8.0, 10.0, 4.0, 1.0, 1.0])

MOMENTS = 6
CUBE_VIEW_PX, GRIPPER_VIEW_PX = 32, 40
"""Sides of the close views."""

CUBE_PX = (4, 90)
"""Fewest and most red pixels of one cube."""
GRIPPER_PX = (10, 900)
"""The same of the purple gripper."""
SPECK_PX = 3
"""A patch of colour with fewer pixels is noise."""


def network() -> torch.nn.Module:
    """The network with random weights: close views of cube and gripper, one of the whole, and moments of their colours,
    to `OUTPUTS`."""
    import torch
    from torch import nn

    def view(side: int) -> nn.Sequential:
        """Pictures `[N, 3, side, side]` to `[N, 64]`."""
        return nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2), nn.GELU(), nn.Conv2d(24, 48, 3, 2, 1), nn.GELU(), nn.Conv2d(48, 32, 3, 2, 1),
            nn.GELU(), nn.Flatten(), nn.Linear(32 * (side // 8) ** 2, 64), nn.GELU())

    class Views(nn.Module):
        """Frames `[N, 3, 96, 96]` in [0, 1] to outputs `[N, OUTPUTS]`, in units of `SCALE` about `CENTRE`."""

        def __init__(self) -> None:
            super().__init__()
            self.cube, self.gripper, self.whole = view(CUBE_VIEW_PX), view(GRIPPER_VIEW_PX), view(48)
            told = 2 * MOMENTS
            self.head = nn.Sequential(nn.Linear(3 * 64 + told, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(),
                                      nn.Linear(128, OUTPUTS))
            self.straight = nn.Linear(told, OUTPUTS)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            r, g, b = frames.unbind(1)
            cube = moments(((r - torch.maximum(g, b) - 0.1) / 0.24).clamp(0.0, 1.0))
            gripper = moments(((torch.minimum(b - g, r - g + 0.04) - 0.06) / 0.16).clamp(0.0, 1.0))
            seen = [self.cube(around(frames, cube, CUBE_VIEW_PX) - 0.3),
                    self.gripper(around(frames, gripper, GRIPPER_VIEW_PX) - 0.3),
                    self.whole(nn.functional.avg_pool2d(frames, 2) - 0.3)]
            told = torch.cat([cube, gripper], -1)
            out: torch.Tensor = self.head(torch.cat([*seen, told], -1)) + self.straight(told)
            return out

    return Views()


def moments(weights: torch.Tensor) -> torch.Tensor:
    """Centre x y in [-1, 1], spreads xx yy xy about it and mass of weights `[N, H, W]`: `[N, MOMENTS]`, each of order
    1; of no weight at all, zeros."""
    import torch

    height, width = weights.shape[1:]
    x, y = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)
    mass = weights.sum((1, 2))
    share = weights / (mass + 0.1)[:, None, None]
    along_x, along_y = share.sum(1), share.sum(2)
    cx, cy = along_x @ x, along_y @ y
    xx, yy = along_x @ x.square() - cx.square(), along_y @ y.square() - cy.square()
    xy = ((share @ x) * y).sum(1) - cx * cy
    return torch.stack([cx, cy, 50 * xx, 50 * yy, 50 * xy, mass / 100], -1)


def around(frames: torch.Tensor, middle: torch.Tensor, side: int) -> torch.Tensor:
    """The pixels `[N, 3, side, side]` about the centres of moments, black beyond the frame."""
    import torch

    size = frames.shape[-1]
    padded = torch.nn.functional.pad(frames, (side // 2,) * 4)
    corner = ((middle[:, :2] + 1) / 2 * (size - 1)).round().long().clamp(0, size - 1)
    offsets = torch.arange(side)
    rows, columns = corner[:, 1:] + offsets, corner[:, :1] + offsets
    lanes = torch.arange(len(frames))[:, None, None]
    return padded.permute(0, 2, 3, 1)[lanes, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


@cache
def trained(path: Path = WEIGHTS, digest: str = SHA256) -> Any:
    """The network with its weights.  ConfigError where they are not those that its errors were published for."""
    from safetensors.torch import load_file

    if not path.is_file() or (digest and hashlib.sha256(path.read_bytes()).hexdigest() != digest):
        raise ConfigError(f"{path} is missing or damaged: install wcsim again")
    net = network()
    net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return net.eval().requires_grad_(False)


def red(frames: np.ndarray) -> np.ndarray:
    """Pixels `[..., H, W]` bool that have the cube's colour in frames `[..., H, W, 3]`."""
    r, g, b = (frames[..., channel].astype(np.int16) for channel in range(3))
    return np.asarray((r > 90) & (r - g > 60) & (r - b > 35))


def purple(frames: np.ndarray) -> np.ndarray:
    """The same of the gripper's."""
    r, g, b = (frames[..., channel].astype(np.int16) for channel in range(3))
    return np.asarray((b - g > 35) & (r - g > 15) & (b - r > 5))


def patches(mask: np.ndarray) -> int:
    """How many connected patches a mask `[H, W]` has, specks left out."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return int((stats[1:, cv2.CC_STAT_AREA] >= SPECK_PX).sum())


def decode(outputs: np.ndarray) -> dict[str, np.ndarray]:
    """The quantities that outputs `[N, OUTPUTS]` of the network mean."""
    told = outputs * SCALE + CENTRE
    yaw = np.arctan2(told[:, 4:5], told[:, 3:4])
    turned = np.arctan2(told[:, 10:11], told[:, 9:10]) / CUBE_SYMMETRY
    return {"effector": told[:, :3], "effector_yaw": yaw, "gripper": np.clip(told[:, 5:6], 0.0, 1.0),
            "cube": told[:, 6:9], "cube_yaw": turned}


def encode(state: np.ndarray) -> np.ndarray:
    """What the network should say, `[N, OUTPUTS]`, of simulator states `[N, 9]`."""
    yaw, turned = state[:, 3], CUBE_SYMMETRY * state[:, 8]
    told = np.column_stack([state[:, :3], np.cos(yaw), np.sin(yaw), state[:, 4], state[:, 5:8], np.cos(turned),
                            np.sin(turned)])
    return np.asarray((told - CENTRE) / SCALE)


def run(net: Any, frames: np.ndarray) -> np.ndarray:
    """Outputs `[N, OUTPUTS]` of frames `[N, H, W, 3]` uint8, each by itself."""
    import torch

    with torch.inference_mode():
        ready = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float() / 255.0
        said = [net(one[None])[0].double().numpy() for one in ready]
    return np.array(said).reshape(-1, OUTPUTS)


def look(frames: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Values and found of all quantities, and whether one whole cube and one gripper are seen, in frames `[N, H, W,
    3]`."""
    values = decode(run(trained(), frames))
    cube_seen, hand_seen = red(frames), purple(frames)
    cube_px, hand_px = cube_seen.sum((1, 2)), hand_seen.sum((1, 2))
    values["effector_yaw"] = np.full((len(frames), 1), np.nan)
    there = {"cube": cube_px >= CUBE_PX[0], "hand": hand_px >= GRIPPER_PX[0]}
    found = {name: there["cube" if name.startswith("cube") else "hand"] for name in values}
    found["effector_yaw"] = np.zeros(len(frames), dtype=bool)
    values = {name: np.where(found[name][:, None], value, np.nan) for name, value in values.items()}
    single = np.array([patches(mask) <= 1 for mask in cube_seen], dtype=bool)
    whole = there["cube"] & there["hand"] & single & (cube_px <= CUBE_PX[1]) & (hand_px <= GRIPPER_PX[1])
    return values, found, whole
