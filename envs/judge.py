"""The judge: where the agent and the block are, from pixels alone.

Colours become soft masks, a bank of templates gives a first pose, Gauss-Newton on the signed distance of the outline
a fine one.  Easy to get wrong: what the agent or the frame's border hides is unknown, not empty, so it has no weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
import shapely
from threadpoolctl import ThreadpoolController

from wcsim.envs.disc import DrawnDisc
from wcsim.envs.scene import Patch, Scene, rotation, wrap

BANK_ANGLES = 36
BANK_SHIFTS_PX = (-16.0, -8.0, 0.0, 8.0, 16.0)
"""First poses tried around the centre of what looks like the block; a second round starts from the best of them."""

RAMPS_PX = (16.0, 8.0, 5.0, 3.5)
"""Width of the model's soft edge per Gauss-Newton step: wide to catch, then as sharp as the pixels are."""

SLACK_PX = 16.0
"""Edges may be off by a quarter of this before the fit suffers: the frame's own sampling moves them by half as much."""

LEVER_PX = 50.0
"""Angles are fitted as lengths at this distance from the block's centre, so that damping treats all unknowns alike."""

BLOCK_SHARE, AGENT_SHARE, FOUND_FIT = 0.5, 0.15, 0.3
"""Least share of its area in view, and least fit, to count as found.  With less in view, a block fits many poses."""

BLOCK_FIT_OK, AGENT_FIT_OK = 0.9, 0.7
"""Least fit of an unbroken block and of a whole agent; docs/judge.md has the distribution behind them."""

MARKED = 0.3
"""Share of the mark's colour in a pixel from which on it says nothing of the agent; the block's rim passes for 0.26."""

SPECK_PX = 5
"""Pieces of block colour smaller than this many frame pixels are noise."""

BATCH = 64
"""Frames judged together; larger batches only cost memory."""

BLAS = ThreadpoolController()
"""Keeps the judge's products on one thread: the pool of numpy's BLAS, once woken, spins on beside the world's own."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of N frames, in simulator pixels and radians.

    agent: `[N, 2]`.  block: `[N, 3]` x, y, angle in (-pi, pi].  Both NaN where not found.  agent_found, block_found:
    `[N]` bool.  coverage: `[N]` share of the goal that the block covers, 0 where it was not found.  success: `[N]`
    bool.  shape_ok: `[N]` bool, the frame shows one unbroken block and one whole agent.  block_fit, agent_fit: `[N]`
    overlap (intersection over union) of what is seen with what the fitted pose predicts, 0 to 1.
    """

    agent: np.ndarray
    agent_found: np.ndarray
    block: np.ndarray
    block_found: np.ndarray
    coverage: np.ndarray
    success: np.ndarray
    shape_ok: np.ndarray
    block_fit: np.ndarray
    agent_fit: np.ndarray

    @classmethod
    def of_state(cls, agent: np.ndarray, block: np.ndarray, coverage: np.ndarray, success_coverage: float) -> Self:
        """The judgement of one who sees the simulator's state: `agent` `[N, 2]`, `block` `[N, 3]`, `coverage` `[N]`."""
        yes, perfect = np.ones(len(agent), dtype=bool), np.ones(len(agent))
        turned = np.concatenate([block[:, :2], wrap(block[:, 2:])], axis=1)
        return cls(agent, yes, turned, yes, coverage, coverage > success_coverage, yes, perfect, perfect)


class PixelJudge:
    """Fits a `Scene` to frames.  Stateless: every frame is judged on its own."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        table, goal, block, agent = (np.array(colour, dtype=np.float64) for colour in (
            scene.table_colour, scene.goal_colour, scene.block_colour, scene.agent_colour))
        # Block: how far from table to block colour, blind to any mixture of table and goal.
        to_goal, to_block = goal - table, block - table
        normal = to_block - to_goal * (to_block @ to_goal) / (to_goal @ to_goal)
        self._block_axis = (normal / (normal @ to_block)).astype(np.float32)
        # Agent: blind to table, goal and grey walls.
        hue = np.cross(to_goal, table)
        self._agent_axis = (hue / (hue @ agent)).astype(np.float32)
        self._block_hue = float(self._agent_axis @ block)
        # Marks of contact: blind to mixtures of table, goal and agent.
        odd = np.cross(to_goal, agent - table)
        self._mark_axis = (odd / (odd @ (np.array(scene.mark_colour) - table))).astype(np.float32)
        self._bare = scene.bare
        self._disc = DrawnDisc(scene, self._agent_axis)

        self._centre = np.array([scene.outline.centroid.x, scene.outline.centroid.y])
        reach = np.linalg.norm(shapely.get_coordinates(scene.outline) - self._centre, axis=1).max()
        # Even, so that every second pixel of a window includes its middle and its border.
        self._block_half = 2 * int(np.ceil((reach + 16.0) / scene.scale / 2))
        self._agent_half = int(np.ceil(2 * scene.agent_radius / scene.scale))
        self._poses = np.array([(x, y, 2 * np.pi * turn / BANK_ANGLES) for turn in range(BANK_ANGLES)
                                for x in BANK_SHIFTS_PX for y in BANK_SHIFTS_PX])
        grid = np.arange(-self._block_half, self._block_half + 1, 2) * scene.scale
        x, y = (axis.reshape(1, -1) for axis in np.meshgrid(grid, grid))
        templates = self._block_model(self._poses, x, y, 2 * scene.scale)[0].T
        # For weights w and mask m, the columns of [w m, w] @ bank are sum w (m - template)^2, less sum w m^2.
        self._bank = np.concatenate([-2 * templates, templates**2]).astype(np.float32)

    def __call__(self, frames: np.ndarray) -> Judgement:
        """Judge frames `[N, H, W, 3]` uint8.  Raises ValueError for another shape or dtype."""
        size = self.scene.frame_size
        if frames.dtype != np.uint8 or frames.shape[1:] != (size, size, 3):
            raise ValueError(f"frames are {frames.dtype} {frames.shape}; the judge reads uint8 [N, {size}, {size}, 3]")
        # The empty batch also goes through once, for the shapes of its answer.
        with BLAS.limit(limits=1, user_api="blas"):
            parts = [self._judge(frames[first : first + BATCH]) for first in range(0, max(1, len(frames)), BATCH)]
        return Judgement(*(np.concatenate([getattr(part, name) for part in parts]) for name in Judgement.__slots__))

    def of_quantities(self, quantities: Mapping[str, np.ndarray]) -> Judgement:
        """What a faultless look would say of `agent` and `block` `[N, 2]` px and `block_angle` `[N, 1]` rad."""
        block = np.concatenate([quantities["block"], quantities["block_angle"]], axis=1)
        return Judgement.of_state(quantities["agent"], block, self.scene.coverage(block), self.scene.success_coverage)

    def _judge(self, frames: np.ndarray) -> Judgement:
        scene, pixels = self.scene, frames.astype(np.float32)
        hue = pixels @ self._agent_axis / self._bare
        agent = self._find_agent(hue)
        agent, agent_fit, _ = self._fit_agent(hue, agent, np.zeros((len(frames), 0)))
        from_table = pixels - np.array(scene.table_colour, dtype=np.float32)
        mask = sharpen(from_table @ self._block_axis)
        weight = self._uncovered(agent, agent_fit > FOUND_FIT)
        pose = self._find_block(mask, weight)
        pose, block_fit, block_area = self._fit_block(mask, weight, pose)
        agent, agent_fit, agent_area = self._fit_agent(hue, agent, pose)
        agent = self._locate_agent(hue, self._bare * (from_table @ self._mark_axis < MARKED), agent, pose)

        agent_found = (agent_fit > FOUND_FIT) & (agent_area > AGENT_SHARE * np.pi * scene.agent_radius**2)
        block_found = (block_fit > FOUND_FIT) & (block_area > BLOCK_SHARE * scene.outline.area)
        one_piece = np.array([count_pieces(*pair) == 1 for pair in zip(mask, weight, strict=True)], dtype=bool)
        shape_ok = agent_found & block_found & one_piece & (block_fit > BLOCK_FIT_OK) & (agent_fit > AGENT_FIT_OK)
        origin = pose[:, :2] - rotation(pose[:, 2]) @ self._centre - scene.block_shift(pose[:, 2])
        block = np.concatenate([origin, wrap(pose[:, 2:])], axis=1)
        coverage = np.where(block_found, scene.coverage(block), 0.0)
        return Judgement(
            np.where(agent_found[:, None], agent, np.nan), agent_found,
            np.where(block_found[:, None], block, np.nan), block_found,
            coverage, coverage > scene.success_coverage, shape_ok, block_fit, agent_fit)

    def _find_agent(self, hue: np.ndarray) -> np.ndarray:
        """The table coordinate `[N, 2]` around which most agent hue lies, the block's faint share apart."""
        size, faint = self.scene.frame_size, 1.5 * self._block_hue
        reach = 2 * int(self.scene.agent_radius / self.scene.scale) + 1
        mass = [cv2.blur(mask, (reach, reach), borderType=cv2.BORDER_CONSTANT) for mask in hue.clip(faint, 1) - faint]
        peak = np.reshape(mass, (len(hue), size * size)).argmax(1)
        return self.scene.coordinate(np.stack([peak % size, peak // size], -1))

    def _fit_agent(
        self, hue: np.ndarray, agent: np.ndarray, block: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Refined centres `[N, 2]` as drawn, their fit `[N]`, and the area in view `[N]` in simulator pixels.

        hue: `[N, H, W]`, of what the walls leave bare.  block: `[N, 3]` poses of the block, whose own share of the hue
        is then taken away, or `[N, 0]`: none known yet.
        """
        patch = Patch.cut(self.scene, hue, np.broadcast_to(self._bare, hue.shape), agent, self._agent_half)
        behind = np.zeros_like(patch.value)
        if block.shape[1]:
            behind = self._block_hue * self._block_model(block, patch.x, patch.y, RAMPS_PX[-1])[0]
        value, edge = sharpen((patch.value - behind) / (1.0 - behind)), np.empty(0)
        for ramp in (*RAMPS_PX, SLACK_PX):
            x, y = (patch.x - agent[:, :1]).astype(np.float32), (patch.y - agent[:, 1:]).astype(np.float32)
            distance = np.hypot(x, y) + 1e-6
            edge, slope = soften(distance - self.scene.agent_radius, ramp)
            if ramp != SLACK_PX:
                slope = slope * patch.weight / distance
                step = gauss_newton(patch.weight * (value - edge), np.stack([slope * x, slope * y], -1))
                agent = agent + step.clip(-ramp, ramp)
        elsewhere = sharpen(hue - self._block_hue).sum((1, 2)) - sharpen(patch.value - self._block_hue).sum(1)
        # What lies beneath a wall belongs to the agent's area as well.
        return agent, *self._agreement(value, edge, patch.weight > 0.0, elsewhere)

    def _locate_agent(self, hue: np.ndarray, weight: np.ndarray, agent: np.ndarray, block: np.ndarray) -> np.ndarray:
        """True centres `[N, 2]` of agents fitted as drawn.  weight: `[N, H, W]`.  block: poses `[N, 3]`."""
        patch = Patch.cut(self.scene, hue, weight, agent, self._disc.half)
        behind = self._block_hue * self._block_model(block, patch.x, patch.y, RAMPS_PX[-1])[0]
        return self._disc.locate(patch, behind, agent)

    def _uncovered(self, agent: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Weights `[N, H, W]` of what the block's mask says: 0 on the rim and under the agent."""
        scene = self.scene
        axis = scene.coordinate(np.arange(scene.frame_size))
        across, down = (axis - agent[:, index, None] for index in (0, 1))
        distance = np.hypot(across[:, None, :], down[:, :, None])
        # Two pixels of margin: a blurred edge of the agent has block colour.
        weight = 1.0 - soften(distance - scene.agent_radius - 0.6 * scene.scale, 0.8 * scene.scale)[0]
        weight[~found] = 1.0
        uncovered: np.ndarray = (weight * (self._bare == 1.0)).astype(np.float32)
        return uncovered

    def _find_block(self, mask: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The pose `[N, 3]` (of the block's centre, as drawn) of the best template."""
        scene, seen = self.scene, mask * weight
        axis, side = scene.coordinate(np.arange(scene.frame_size)), self._block_half + 1
        total = seen.sum((1, 2)) + 1e-6
        centre = np.stack([seen.sum(1) @ axis / total, seen.sum(2) @ axis / total], -1)
        for _ in range(2):
            patch = Patch.cut(scene, mask, weight, centre, self._block_half)
            thin = [array.reshape(len(mask), 2 * side - 1, 2 * side - 1)[:, ::2, ::2].reshape(len(mask), side * side)
                    for array in (patch.value * patch.weight, patch.weight)]
            best = self._poses[(np.concatenate(thin, axis=1) @ self._bank).argmin(1)]
            centre = scene.coordinate(scene.pixel(centre)) + best[:, :2]
        return np.concatenate([centre, best[:, 2:]], axis=1)

    def _block_model(
        self, pose: np.ndarray, x: np.ndarray, y: np.ndarray, ramp: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The soft block `[N, P]` at table coordinates and its derivative `[N, P, 3]` along its own u, v and turn."""
        c, s = (wave(pose[:, 2:]).astype(np.float32) for wave in (np.cos, np.sin))
        x, y = x - pose[:, :1].astype(np.float32), y - pose[:, 1:2].astype(np.float32)
        u, v = c * x + s * y, c * y - s * x
        distance, along_u, along_v = self.scene.block_distance(u + np.float32(self._centre[0]),
                                                               v + np.float32(self._centre[1]))
        model, slope = soften(distance, ramp)
        turn = (along_v * u - along_u * v) / LEVER_PX
        return model, np.stack([slope * along_u, slope * along_v, slope * turn], -1)

    def _fit_block(self, mask: np.ndarray, weight: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, ...]:
        """Refined poses `[N, 3]`, their fit `[N]`, and the area in view `[N]` in simulator pixels."""
        patch = Patch.cut(self.scene, mask, weight, pose[:, :2], self._block_half)
        for ramp in RAMPS_PX:
            model, slope = self._block_model(pose, patch.x, patch.y, ramp)
            step = gauss_newton(patch.weight * (patch.value - model), patch.weight[:, :, None] * slope)
            step = step.clip(-ramp, ramp)
            moved = (rotation(pose[:, 2]) @ step[:, :2, None])[..., 0]
            pose = pose + np.concatenate([moved, step[:, 2:] / LEVER_PX], axis=1)
        edge, _ = self._block_model(pose, patch.x, patch.y, SLACK_PX)
        elsewhere = (mask * weight).sum((1, 2)) - (patch.value * patch.weight).sum(1)
        return pose, *self._agreement(patch.value, edge, patch.weight, elsewhere)

    def _agreement(
        self, seen: np.ndarray, edge: np.ndarray, weight: np.ndarray, elsewhere: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fit `[N]` of a model to what is seen `[N, P]`, and the area `[N]` on which they agree.

        edge: the model over a ramp of SLACK_PX.  Its doubled halves are the model grown and shrunk by a quarter of it;
        what lies between them is never wrong.  elsewhere: `[N]` mass seen outside the window.
        """
        most, least = np.minimum(2 * edge, 1.0), np.maximum(2 * edge - 1.0, 0.0)
        agreed = (weight * np.minimum(seen, most)).sum(1)
        wrong = (weight * (np.maximum(seen - most, 0.0) + np.maximum(least - seen, 0.0))).sum(1) + elsewhere
        return agreed / np.maximum(agreed + wrong, 1e-6), agreed * self.scene.scale**2


def sharpen(mask: np.ndarray) -> np.ndarray:
    """Stretch a soft mask around one half, which silences noise and leaves edges where they are."""
    stretched: np.ndarray = (mask.clip(0.15, 0.85) - 0.15) / 0.7
    return stretched


def soften(distance: np.ndarray, ramp: float) -> tuple[np.ndarray, np.ndarray]:
    """A mask that falls from 1 inside to 0 outside over `ramp`, and how fast it grows as its edge moves outwards."""
    model = 0.5 - distance / ramp
    return model.clip(0.0, 1.0), ((model > 0.0) & (model < 1.0)).astype(np.float32) / ramp


def gauss_newton(error: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The least-squares step `[N, K]` for residuals `[N, P]` of a model with derivative `[N, P, K]`, lightly damped."""
    across = slope.swapaxes(1, 2)
    normal = across @ slope
    damping = 1e-3 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-6
    step: np.ndarray = np.linalg.solve(normal + damping * np.eye(normal.shape[1]), across @ error[:, :, None])[..., 0]
    return step


def count_pieces(mask: np.ndarray, weight: np.ndarray) -> int:
    """Connected pieces of the block `[H, W]`, specks apart; what covers it may join them."""
    hidden = weight < 0.5
    _, labels = cv2.connectedComponents(((mask > 0.5) | hidden).astype(np.uint8), connectivity=8)
    seen = np.bincount(labels.ravel(), weights=((mask > 0.5) & ~hidden).ravel())
    return int((seen[1:] >= SPECK_PX).sum())
