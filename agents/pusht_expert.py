"""PushT's scripted expert: it pushes the block onto its goal pose, stroke by stroke, from poses that were estimated.

Between strokes it imagines every straight push of a quasi-static block: an impulse at the contact moves the block and
turns it, as if it floated in honey.  Easy to get wrong: the block turns about its centre of gravity, while its pose is
that of its body's origin.  Lengths are simulator pixels; block poses are x, y, angle; S strokes, P outline points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from wcsim.agents.policies import Observation
from wcsim.errors import ConfigError
from wcsim.estimate import Episode, Estimate, Goal


@dataclass(frozen=True, slots=True)
class Block:
    """What an expert knows of the block it pushes, in body coordinates.

    outline: its corners, in order, inside on the left.  centre: of gravity.  gyration_px: radius of gyration, by which
    pushes off the centre turn it.
    """

    outline: tuple[tuple[float, float], ...]
    centre: tuple[float, float]
    gyration_px: float

    def contacts(self, spacing_px: float) -> tuple[np.ndarray, np.ndarray]:
        """Points `[P, 2]` on the outline, corners left out, and their outward normals `[P, 2]`."""
        points, normals = [], []
        corners = np.array(self.outline)
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            length = float(np.linalg.norm(end - start))
            count = max(1, int(length / spacing_px))
            along = (end - start) / length
            for i in range(count):
                points.append(start + along * length * (i + 0.5) / count)
                normals.append((along[1], -along[0]))
        return np.array(points), np.array(normals)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distance `[...]` of points `[..., 2]` outside the block to its outline."""
        start = np.array(self.outline)
        edge = np.roll(start, -1, axis=0) - start
        offset = points[..., None, :] - start
        share = np.clip((offset * edge).sum(-1) / (edge * edge).sum(-1), 0.0, 1.0)
        return np.asarray(np.linalg.norm(offset - share[..., None] * edge, axis=-1).min(axis=-1))


TEE = Block(
    outline=((-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)),
    centre=(0.0, 45.0),
    gyration_px=54.8,
)
"""PushT's block; the simulator gives it the inertia of two bars (3000 px^2 per unit of mass)."""


@dataclass(frozen=True, slots=True)
class PushConfig:
    """How the expert pushes.

    radius_px: of the agent.  lever_px: what a radian of angle error weighs.  speed_px: how far ahead of the agent the
    target runs.  detour: what a pixel of way to a stroke's start costs, in pixels of pose error.  good_px: pose error
    that is left alone.  margin_px: gap to the block on the way.  table_px: side of the table.  spacing_px: between
    contacts that it considers.  lengths_px: of strokes, rising.
    """

    radius_px: float = 15.0
    lever_px: float = 60.0
    speed_px: float = 40.0
    detour: float = 0.02
    good_px: float = 1.5
    margin_px: float = 6.0
    table_px: float = 512.0
    spacing_px: float = 7.5
    lengths_px: tuple[float, ...] = (4.0, 8.0, 12.0, 18.0, 26.0, 38.0, 54.0, 76.0)


@dataclass(slots=True)
class Stroke:
    """A push under way.  point, normal: the contact and its outward normal, in body coordinates.  heading: `[2]` of
    the push, once it has begun.  ticks: since then."""

    point: np.ndarray
    normal: np.ndarray
    heading: np.ndarray | None = None
    ticks: int = 0


class PushTask(Protocol):
    """What the expert needs of its task: a goal of `block` `[2]` and `block_angle` `[1]`, and an estimator."""

    @property
    def goal(self) -> Goal | None: ...

    def estimate(self, frames: np.ndarray) -> Estimate: ...


class PushExpert:
    """Pushes `block` to the goal of the episode, or of the task where the episode has none.

    It acts from `agent_pos` `[2]` and `environment_state` `[3]`, the block's x, y and angle, and estimates them from
    `pixels` where the observation has no `environment_state`.  A block that is not seen (NaN) is taken to be where it
    was last.  speed_px: see `PushConfig`.
    """

    def __init__(
        self, task: PushTask, *, speed_px: float = 40.0, block: Block = TEE, config: PushConfig | None = None
    ) -> None:
        self._task, self.block, self.config = task, block, replace(config or PushConfig(), speed_px=speed_px)
        self.reset(Episode(0, 0))

    def reset(self, episode: Episode) -> None:
        """Forget the last episode's block and stroke.  ConfigError for a goal without the block's pose."""
        goal = self._task.goal if episode.goal is None else episode.goal
        if goal is None or not {"block", "block_angle"} <= set(goal.values):
            raise ConfigError("the expert pushes a block to a goal of block and block_angle, and has "
                              f"{'none' if goal is None else ', '.join(goal.values)}")
        x, y = goal.values["block"].tolist()
        self.goal: tuple[float, float, float] = x, y, float(goal.values["block_angle"][0])
        self._pose: np.ndarray | None = None
        self._stroke: Stroke | None = None

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """The agent's next target `[2]`, on the table."""
        agent, pose = self._look(observation)
        if self._stroke is not None and self._stroke.heading is not None and self._is_over(agent, pose):
            self._stroke = None
        if self._stroke is None:
            self._stroke = self._plan(agent, pose)
        target = agent if self._stroke is None else self._follow(self._stroke, agent, pose)
        return np.asarray(np.clip(target, 0.0, self.config.table_px))

    def _look(self, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Where the agent and the block are."""
        agent = np.array(observation["agent_pos"], np.float64)
        if "environment_state" in observation:
            pose = np.array(observation["environment_state"], np.float64)
        else:
            seen = self._task.estimate(observation["pixels"][None]).values
            pose = np.concatenate([seen["block"][0], seen["block_angle"][0]])
            agent = seen["agent"][0] if np.isfinite(seen["agent"][0]).all() else agent
        if np.isfinite(pose).all():
            self._pose = pose
        if self._pose is None:
            self._pose = np.array([self.config.table_px / 2, self.config.table_px / 2, 0.0])
        return agent, self._pose

    def _plan(self, agent: np.ndarray, pose: np.ndarray) -> Stroke | None:
        """The stroke after which the block should be nearest to its goal; None where none helps."""
        config, block = self.config, self.block
        now = float(self._error(pose[None])[0])
        if now < config.good_px:
            return None
        points, normals = block.contacts(config.spacing_px)
        stand = points + normals * (config.radius_px + config.margin_px)
        start = to_table(pose, stand)
        room = (block.distance(stand) > config.radius_px + 1.0) & (
            (start > config.radius_px + 6) & (start < config.table_px - config.radius_px - 6)).all(axis=1)
        left = self._imagine(pose, to_table(pose, points), -turned(normals, pose[2]))
        way = np.linalg.norm(start - agent, axis=1)
        cost = np.where(room[:, None], left, np.inf) + config.detour * way[:, None]
        best = np.unravel_index(int(np.argmin(cost)), cost.shape)
        if not left[best] < now - 0.5:
            return None
        return Stroke(points[best[0]], normals[best[0]])

    def _imagine(self, pose: np.ndarray, contact: np.ndarray, heading: np.ndarray) -> np.ndarray:
        """Pose errors `[S, L]` after pushing at `contact` `[S, 2]` along `heading` `[S, 2]` for each of `lengths_px`.

        An impulse j along the contact's normal moves the centre by j and turns by (r x j) / gyration^2, so that the
        contact keeps pace with the agent.
        """
        centre = to_table(pose, np.array(self.block.centre)[None]).repeat(len(contact), axis=0)
        angle, gone, errors = np.full(len(contact), pose[2]), 0.0, []
        for length in self.config.lengths_px:
            parts = max(1, int(np.ceil((length - gone) / 6.0)))
            for _ in range(parts):
                step = (length - gone) / parts
                normal = turned(heading, angle - pose[2])
                arm = contact - centre
                turn = arm[:, 0] * normal[:, 1] - arm[:, 1] * normal[:, 0]
                push = step * np.maximum((heading * normal).sum(1), 0.0) / (1 + (turn / self.block.gyration_px) ** 2)
                centre = centre + push[:, None] * normal
                angle = angle + push * turn / self.block.gyration_px**2
                contact = contact + step * heading
            gone = length
            origin = centre - turned(np.broadcast_to(self.block.centre, centre.shape), angle)
            errors.append(self._error(np.concatenate([origin, angle[:, None]], axis=1)))
        return np.stack(errors, axis=1)

    def _error(self, pose: np.ndarray) -> np.ndarray:
        """How far poses `[N, 3]` are from the goal, in pixels: the centre's distance and the turn at a lever."""
        away = to_table(pose, np.array(self.block.centre)) - to_table(np.array(self.goal), np.array(self.block.centre))
        turn = np.mod(pose[:, 2] - self.goal[2] + np.pi, 2 * np.pi) - np.pi
        return np.asarray(np.sqrt((away**2).sum(-1) + (self.config.lever_px * turn) ** 2))

    def _is_over(self, agent: np.ndarray, pose: np.ndarray) -> bool:
        """Whether pushing on would bring the block no nearer to its goal."""
        stroke = self._stroke
        assert stroke is not None
        assert stroke.heading is not None
        stroke.ticks += 1
        contact = agent + self.config.radius_px * stroke.heading
        ahead = self._imagine(pose, contact[None], stroke.heading[None])
        return stroke.ticks > 12 or not ahead.min() < self._error(pose[None])[0] - 0.3

    def _follow(self, stroke: Stroke, agent: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """The target that leads to the stroke's start, round the block, and then through it."""
        config = self.config
        outward = turned(stroke.normal[None], pose[2])[0]
        start = to_table(pose, stroke.point[None])[0] + outward * (config.radius_px + config.margin_px)
        if stroke.heading is None and np.linalg.norm(start - agent) < config.margin_px:
            stroke.heading = -outward
        if stroke.heading is not None:
            contact = agent + config.radius_px * stroke.heading
            ahead = self._imagine(pose, contact[None], stroke.heading[None])
            gap = max(0.0, float(self.block.distance(to_body(pose, agent[None]))[0]) - config.radius_px)
            best = config.lengths_px[int(ahead[0].argmin())]
            return np.asarray(agent + min(config.speed_px, gap + best) * stroke.heading)
        if self._is_clear(agent, start, pose):
            return np.asarray(start)
        return self._round(agent, start, pose)

    def _is_clear(self, agent: np.ndarray, goal: np.ndarray, pose: np.ndarray) -> bool:
        """Whether the agent can go straight there without touching the block."""
        way = agent + np.linspace(0.0, 1.0, 12)[:, None] * (goal - agent)
        return bool((self.block.distance(to_body(pose, way)) > self.config.radius_px + 1.0).all())

    def _round(self, agent: np.ndarray, goal: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """The next target on a circle round the block, the shorter way towards `goal`."""
        centre = to_table(pose, np.array(self.block.centre)[None])[0]
        reach = np.linalg.norm(np.array(self.block.outline) - self.block.centre, axis=1).max()
        circle = reach + self.config.radius_px + self.config.margin_px
        here, there = (np.arctan2(*(point - centre)[::-1]) for point in (agent, goal))
        turn = np.mod(there - here + np.pi, 2 * np.pi) - np.pi
        if np.linalg.norm(agent - centre) < circle - 12.0:
            return np.asarray(centre + circle * np.array([np.cos(here), np.sin(here)]))
        onward = here + np.clip(turn, -0.8, 0.8)
        return np.asarray(centre + circle * np.array([np.cos(onward), np.sin(onward)]))


def turned(vectors: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Vectors `[N, 2]` turned by an angle, or one angle `[N]` each."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * vectors[:, 0] - s * vectors[:, 1], s * vectors[:, 0] + c * vectors[:, 1]], axis=-1)


def to_table(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Body points `[..., 2]` on the table for poses `[..., 3]`."""
    c, s, x, y = np.cos(pose[..., 2]), np.sin(pose[..., 2]), points[..., 0], points[..., 1]
    return np.stack([pose[..., 0] + c * x - s * y, pose[..., 1] + s * x + c * y], axis=-1)


def to_body(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Table points `[N, 2]` in the body coordinates of one pose `[3]`."""
    return turned(points - pose[:2], -pose[2])
