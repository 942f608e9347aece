"""PushT as a task: push the T-shaped block onto its outline.  All that is special about PushT is in this file.

The simulator rounds vertices to whole pixels, draws the block's outline two pixels beyond it and even-sized circles
half a pixel up and left; `SCENE` holds those habits, so that estimated poses are free of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import shapely

from wcsim.cameras import Cameras
from wcsim.envs.base_task import BaseTask
from wcsim.envs.pusht_estimator import PushTEstimator
from wcsim.envs.pusht_exploration import explore
from wcsim.envs.pusht_scene import Scene
from wcsim.envs.pusht_truth import GOAL_POSE, SUCCESS_COVERAGE, TABLE_PX, PushTTruth, start_at, values_of
from wcsim.envs.tasks import Start, Truth
from wcsim.errors import ConfigError
from wcsim.estimate import Estimate, Goal
from wcsim.spec import Quantity, StateSpec, Values
from wcsim.types import ActionSpec

SCENE = Scene(
    frame_size=96,
    table=TABLE_PX,
    table_colour=(255, 255, 255),
    goal_colour=(144, 238, 144),
    goal=GOAL_POSE,
    # The mean over its area: a light inside and a darker rim.
    block_colour=(137, 156, 176),
    block=((-60.0, 0.0, 60.0, 30.0), (-15.0, 0.0, 15.0, 120.0)),
    block_outline=2.0,
    # Thick lines lie askew, and differently on either side of a diagonal; measured on simulator frames.
    block_drawn=((0.0, -0.2, 0.2), (22.0, -0.5, 0.2), (43.0, -0.4, 0.1), (47.0, 0.15, -0.33), (68.0, -0.08, -0.1)),
    agent_radius=14.7,
    agent_drawn=(-0.5, -0.5),
    agent_discs=((14.8, (65, 105, 225)), (10.8, (78, 126, 255))),
    mark_colour=(231, 76, 60),
    # Measured on simulator frames of agents at a wall.
    rim=((0.86, 0.0), (0.0, 0.52)),
    success_coverage=SUCCESS_COVERAGE,
)

AGENT_RADIUS_PX = 15.0
"""The agent's disc in the simulator; it is drawn a little smaller."""

STARTS = ("random", "near")

START_COVERAGE = 0.9
"""A near start covers no more of the goal than this, or there would be nothing left to do."""

TRIES = 1000
"""Draws of a near start before its ranges are called impossible; a usual one needs fewer than ten."""

BESIDE_PX = (8.0, 50.0)
"""Gap between agent and block at a near start."""

AGENT_MARGIN_PX = 50.0
"""A near start keeps the agent this far from the table's edge, as the simulator's own draw does."""


class PushT(BaseTask):
    """The task.

    start: `random`, the simulator's own draw, or `near`, the block at most `near_px` (simulator pixels) and
    `near_degrees` off its goal with the agent beside it.  max_episode_steps: when an episode is truncated.  Raises
    ConfigError for a value out of range.
    """

    name = "pusht"
    description = "Push the T-shaped block onto its outline."
    action = ActionSpec(low=(0.0, 0.0), high=(TABLE_PX, TABLE_PX), names=("target_x", "target_y"),
                        units="simulator px", fourier_octaves=4)
    state = StateSpec((
        Quantity("agent", 2, "px", "position", role="robot", low=0.0, high=TABLE_PX),
        Quantity("block", 2, "px", "position", goal=True, low=0.0, high=TABLE_PX, moved=2.0, lost=20.0),
        # One degree costs as much as one pixel: the rim of the block is about that far away.
        Quantity("block_angle", 1, "rad", "angle", goal=True, weight=60.0, moved=2.0),
    ), progress="coverage")
    cameras = Cameras.single(SCENE.frame_size, SCENE.frame_size)
    fps = 10.0
    goal = Goal({"block": np.array(GOAL_POSE[:2]), "block_angle": np.array(GOAL_POSE[2:])})
    expert = "wcsim.agents.pusht_expert:PushExpert"

    def __init__(self, *, start: str = "random", near_px: float = 60.0, near_degrees: float = 25.0,
                 max_episode_steps: int = 300) -> None:
        if start not in STARTS:
            raise ConfigError(f"start {start!r} is unknown; known: {', '.join(STARTS)}")
        for option, value, highest in (("near_px", near_px, 150.0), ("near_degrees", near_degrees, 180.0)):
            if not 0.0 <= value <= highest:
                raise ConfigError(f"{option} is {value}; it must be in [0, {highest:g}]")
        if max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps is {max_episode_steps}; it must be at least 1")
        self.max_episode_steps = max_episode_steps
        self._near = start == "near"
        self._near_px, self._near_radians = near_px, np.radians(near_degrees)
        self._estimator = _estimator()

    def start(self, seed: int) -> Start:
        """The start of `seed`: one frame, no actions.  Raises ConfigError where no near start can be found."""
        truth = self.make_truth()
        try:
            seen = truth.reset(start=self._draw_near(seed)) if self._near else truth.reset(seed)
            return Start(seen.pixels[None], np.zeros((0, self.action.dim), dtype=np.float32), truth.snapshot())
        finally:
            truth.close()

    def estimate(self, frames: np.ndarray) -> Estimate:
        """Frames `[N, 96, 96, 3]` uint8 to poses and coverage."""
        return self._estimator(frames)

    def estimate_state(self, values: Values) -> Estimate:
        """Coverage and success of agents and blocks; of a block that is NaN or missing both are nothing."""
        lanes = len(next(iter(values.values())))
        given = {name: np.asarray(value, np.float64) for name, value in values.items()}
        quantities = {**self.state.unknown(lanes), **given}
        block = np.concatenate([quantities["block"], quantities["block_angle"]], axis=1)
        found, seen = {name: np.isfinite(value).all(1) for name, value in quantities.items()}, np.isfinite(block).all(1)
        coverage = np.zeros(lanes)
        coverage[seen] = SCENE.coverage(block[seen])
        return Estimate(values_of(quantities["agent"], block), found, coverage, coverage > SUCCESS_COVERAGE,
                        found["agent"] & seen)

    def reward(self, estimate: Estimate) -> np.ndarray:
        """The benchmark's own: coverage as a share of what counts as success, at most 1."""
        return np.clip(estimate.progress / SUCCESS_COVERAGE, 0.0, 1.0)

    def make_truth(self) -> PushTTruth:
        """A new simulator."""
        return PushTTruth()

    def goal_frame(self) -> np.ndarray:
        """The block on its outline, the agent out of the way in a corner."""
        truth = self.make_truth()
        try:
            corner = np.full(2, TABLE_PX - AGENT_MARGIN_PX)
            return truth.reset(start=start_at(corner, np.array(GOAL_POSE))).pixels
        finally:
            truth.close()

    def hold_action(self, frame: np.ndarray) -> np.ndarray:
        """The target where the agent is seen; the middle of the table where it is not."""
        seen = self.estimate(frame[None])
        if not seen.found["agent"][0]:
            return np.full(2, TABLE_PX / 2)
        target: np.ndarray = np.clip(seen.values["agent"][0], self.action.low, self.action.high)
        return target

    def explore(self, rng: np.random.Generator, truth: Truth) -> Iterator[np.ndarray]:
        """See `wcsim.envs.pusht_exploration`."""
        return explore(rng, lambda: truth.state, table=TABLE_PX, goal=GOAL_POSE)

    def _draw_near(self, seed: int) -> tuple[float, ...]:
        """A reset state with the block close to its goal and the agent beside it."""
        rng = np.random.default_rng(seed)
        for _ in range(TRIES):
            heading, distance = rng.uniform(-np.pi, np.pi), self._near_px * np.sqrt(rng.uniform())
            turn = rng.uniform(-self._near_radians, self._near_radians)
            offset = distance * np.cos(heading), distance * np.sin(heading), turn
            block = np.add(GOAL_POSE, offset)
            agent = rng.uniform(AGENT_MARGIN_PX, TABLE_PX - AGENT_MARGIN_PX, 2)
            gap = block_gap(agent, block)
            if BESIDE_PX[0] <= gap <= BESIDE_PX[1] and SCENE.coverage(block[None])[0] <= START_COVERAGE:
                return start_at(agent, block)
        raise ConfigError(f"no near start with coverage up to {START_COVERAGE} in {TRIES} draws: "
                          f"raise near_px ({self._near_px}) or near_degrees ({np.degrees(self._near_radians):g})")


def block_gap(agent: np.ndarray, block: np.ndarray) -> float:
    """Simulator pixels between the agent's disc at `[2]` and the block at pose `[3]`; negative where they overlap."""
    return float(shapely.distance(SCENE.polygons(block[None])[0], shapely.points(agent))) - AGENT_RADIUS_PX


@cache
def _estimator() -> PushTEstimator:
    """One for all tasks of a process: it is stateless, and its templates take longer than all else here."""
    return PushTEstimator(SCENE)
