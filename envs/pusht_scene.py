"""PushT: what a table with one round agent and one rigid block looks like, as geometry and colours.

Easy to get wrong: a block pose is the simulator's body origin, which is a point on the block's edge and not its
centre, and pixel `i` of a frame shows simulator coordinate `(i + 0.5) * scale - 0.5`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
import shapely

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Scene:
    """How the table is drawn; lengths in simulator pixels, colours RGB 0 to 255.

    block: boxes (u low, v low, u high, v high) in body coordinates whose union is the block; they overlap, so that no
    seam is an edge.  block_outline: how far the block is drawn beyond its boxes.  agent_drawn: where the renderer puts
    the agent, relative to its true place (x, y).  agent_discs: radius and colour of the discs that it draws there, one
    over the other.  mark_colour: of the dots that it puts where bodies touch.  block_drawn: where it puts the block, as
    rows of degrees, x, y between which it is linear; it repeats every 90 degrees.  goal: x, y, angle.  rim: of a frame
    pixel the shares outside and inside of the walls, which are drawn over all else, from the border inwards.
    """

    frame_size: int
    table: float
    table_colour: Colour
    goal_colour: Colour
    goal: tuple[float, float, float]
    block_colour: Colour
    block: tuple[Box, ...]
    block_outline: float
    block_drawn: tuple[tuple[float, float, float], ...]
    agent_radius: float
    agent_drawn: tuple[float, float]
    agent_discs: tuple[tuple[float, Colour], ...]
    mark_colour: Colour
    rim: tuple[tuple[float, float], ...]
    success_coverage: float

    @property
    def scale(self) -> float:
        """Simulator pixels per frame pixel."""
        return self.table / self.frame_size

    @property
    def agent_colour(self) -> Colour:
        """The agent's colour in the mean over its area."""
        radii, colours = (np.array(part, dtype=float) for part in zip(*self.agent_discs, strict=True))
        shown = radii**2 - np.append(radii[1:], 0.0) ** 2
        red, green, blue = np.round(shown @ colours / shown.sum()).astype(int).tolist()
        return red, green, blue

    @property
    def outline(self) -> shapely.Polygon:
        """The block in body coordinates."""
        return _union(self.block)

    @property
    def bare(self) -> np.ndarray:
        """Share of every frame pixel `[H, W]` that no wall covers."""
        within = np.ones((2, self.frame_size), dtype=np.float32)
        for pixel, (outside, inside) in enumerate(self.rim):
            within[:, pixel] = 1 - outside, inside
        outer, inner = within * within[:, ::-1]
        return 1 - np.outer(outer, outer) + np.outer(inner, inner)

    def coordinate(self, pixel: np.ndarray) -> np.ndarray:
        """Frame pixel index to the simulator coordinate at its centre."""
        return (pixel + 0.5) * self.scale - 0.5

    def pixel(self, coordinate: np.ndarray) -> np.ndarray:
        """Index of the frame pixel nearest to a simulator coordinate; it may lie off the frame."""
        return np.round((coordinate + 0.5) / self.scale - 0.5).astype(np.int64)

    def block_shift(self, angle: np.ndarray) -> np.ndarray:
        """How far off its true place `[N, 2]` the block is drawn at angles `[N]`."""
        degrees, *shifts = np.transpose(self.block_drawn)
        return np.stack([np.interp(np.degrees(angle), degrees, shift, period=90.0) for shift in shifts], -1)

    def polygons(self, block: np.ndarray) -> np.ndarray:
        """Block poses `[N, 3]` as shapely polygons `[N]`."""
        points = shapely.get_coordinates(self.outline.exterior)
        return np.asarray(shapely.polygons(block[:, None, :2] + points @ rotation(block[:, 2]).swapaxes(1, 2)))

    def coverage(self, block: np.ndarray) -> np.ndarray:
        """Share of the goal `[N]` that the block covers at poses `[N, 3]`."""
        goal = self.polygons(np.array([self.goal]))[0]
        return np.asarray(shapely.area(shapely.intersection(self.polygons(block), goal)) / shapely.area(goal))

    def block_distance(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Signed distance (negative inside) to the block as drawn, at body coordinates, and its gradient along u, v.

        Beyond a convex corner it is the larger of the two distances along the axes.
        """
        best, along_u, along_v = np.full_like(u, np.inf), np.zeros_like(u), np.zeros_like(u)
        for low_u, low_v, high_u, high_v in self.block:
            from_u, from_v = u - (low_u + high_u) / 2, v - (low_v + high_v) / 2
            out_u = np.abs(from_u) - ((high_u - low_u) / 2 + self.block_outline)
            out_v = np.abs(from_v) - ((high_v - low_v) / 2 + self.block_outline)
            side, box = out_u > out_v, np.maximum(out_u, out_v)
            nearer = box < best
            best = np.where(nearer, box, best)
            along_u = np.where(nearer, np.sign(from_u) * side, along_u)
            along_v = np.where(nearer, np.sign(from_v) * ~side, along_v)
        return best, along_u, along_v


@dataclass(frozen=True, slots=True)
class Patch:
    """Square windows of a mask, one per frame, as rows.  value, weight, x, y: `[N, P]`; weight is 0 off the frame."""

    value: np.ndarray
    weight: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def cut(cls, scene: Scene, value: np.ndarray, weight: np.ndarray, centre: np.ndarray, half: int) -> Self:
        """Windows of `2 half + 1` frame pixels a side around the pixels nearest to `centre` `[N, 2]`."""
        offset, last, num = np.arange(-half, half + 1), scene.frame_size - 1, len(centre)
        middle = scene.pixel(centre)[:, :, None] + offset
        rows, columns = np.broadcast_arrays(middle[:, 1, :, None], middle[:, 0, None, :])
        inside = (np.minimum(rows, columns) >= 0) & (np.maximum(rows, columns) <= last)
        place = np.arange(num)[:, None, None], rows.clip(0, last), columns.clip(0, last)
        x, y = (scene.coordinate(index).astype(np.float32) for index in (columns, rows))
        arrays = value[place] * inside, weight[place] * inside, x, y
        return cls(*(array.reshape(num, offset.size**2) for array in arrays))


@cache
def _union(boxes: tuple[Box, ...]) -> shapely.Polygon:
    """The union of boxes, made once."""
    return shapely.union_all([shapely.box(*box) for box in boxes])


def rotation(angle: np.ndarray) -> np.ndarray:
    """Angles `[N]` to matrices `[N, 2, 2]` that turn body into table coordinates."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
