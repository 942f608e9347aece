"""The agent in a world of known dynamics: when it replans, why, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from linear_world import FIDELITY, TASK, LinearWorld, frame_at, observe
from wcsim.agents.halving import Rung
from wcsim.agents.mpc import MPCAgent, MPCConfig
from wcsim.agents.objectives import LatentGoal
from wcsim.agents.proposals import ImaginedPolicies
from wcsim.agents.reports import ActReport
from wcsim.agents.search import PlanningError
from wcsim.errors import ConfigError
from wcsim.estimate import Episode, Goal

GOAL = (40.0, 60.0)
QUICK = {"horizon": 6, "rounds": 4, "candidates": 32, "elites": 6, "replan_every": 3}


class Ticking:
    """A clock that moves on by `seconds` whenever it is read."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def agent_in(world: LinearWorld, *, with_options: dict[str, Any] | None = None, **config: Any) -> MPCAgent:
    goal = torch.tensor(GOAL, dtype=torch.float64)[:, None, None]
    return MPCAgent(world, LatentGoal(goal, discount=0.8), MPCConfig(**(QUICK | config)),  # type: ignore[arg-type]
                    fidelity=FIDELITY, **(with_options or {}))


def drive(
    agent: MPCAgent, ticks: int, *, start: tuple[float, float] = (50.0, 50.0), episode: int = 0,
    shove: Callable[[int], float] = lambda tick: 0.0,
) -> tuple[np.ndarray, np.ndarray, list[ActReport]]:
    """The truth: the point moves by the action, to whole pixels, and by `shove` along x."""
    point, actions, reports = np.array(start), [], []
    agent.reset(Episode(episode, 0))
    for tick in range(ticks):
        actions.append(agent.act({"pixels": frame_at(*point)}))
        assert agent.report is not None
        reports.append(agent.report)
        point = np.round(point + actions[-1] + [shove(tick), 0.0])
    return point, np.array(actions), reports


def test_it_reaches_the_goal_and_stays_in_bounds() -> None:
    point, actions, reports = drive(agent_in(LinearWorld()), 12)
    assert np.linalg.norm(point - GOAL) <= 2.0
    assert np.abs(actions).max() <= 4.0
    assert reports[-1].cost is not None
    assert reports[-1].cost < reports[0].cost  # type: ignore[operator]


def test_without_a_bound_it_replans_on_schedule() -> None:
    _, _, reports = drive(agent_in(LinearWorld()), 8, shove=lambda tick: 20.0)
    assert [report.reason for report in reports] == ["start", None, None, "schedule", None, None, "schedule", None]
    assert [report.replanned for report in reports] == [True, False, False, True, False, False, True, False]
    assert [report.rounds for report in reports[:3]] == [4, 0, 0]
    assert [report.calls for report in reports[:3]] == [4 * 32, 0, 0]
    assert [len(report.traces) for report in reports[:3]] == [5, 0, 0]
    assert [report.tick for report in reports] == list(range(8))


def test_the_error_of_a_true_world_is_the_rounding_of_its_frames() -> None:
    _, _, reports = drive(agent_in(LinearWorld()), 6)
    assert reports[0].error is None
    for report in reports[1:]:
        assert report.error is not None
        assert 0.0 <= report.error.latent <= np.sqrt(0.5) * 3 / 40
        assert report.error.errors == {}


def test_a_shove_past_the_bound_replans_because_of_the_error() -> None:
    _, _, reports = drive(agent_in(LinearWorld(), error_bound=0.1), 6, shove=lambda tick: 20.0 * (tick == 0))
    assert [report.reason for report in reports] == ["start", "error", None, None, "schedule", None]
    assert reports[1].error is not None
    assert reports[1].error.latent == pytest.approx(20.0 / 83.0, rel=0.2)


def test_a_plan_is_held_to_what_it_promised() -> None:
    _, _, honest = drive(agent_in(LinearWorld()), 9)
    assert [report.tick for report in honest if report.realised is not None] == [3, 6]
    for report in honest[3:7:3]:
        assert report.realised is not None
        assert report.realised[0] == pytest.approx(report.realised[1], abs=0.5)  # frames show whole pixels
    _, _, shoved = drive(agent_in(LinearWorld()), 4, shove=lambda tick: 5.0)
    assert shoved[3].realised is not None
    assert shoved[3].realised[1] > shoved[3].realised[0] + 3.0


def test_a_world_of_the_wrong_gain_is_found_out() -> None:
    _, _, reports = drive(agent_in(LinearWorld(gain=4.0), error_bound=0.05), 3)
    assert reports[1].reason == "error"


def test_the_prediction_is_that_of_the_action_taken() -> None:
    agent = agent_in(LinearWorld(gain=2.0))
    agent.reset(Episode(0, 0))
    action = agent.act({"pixels": frame_at(50, 50)})
    agent.act({"pixels": frame_at(53, 50)})
    assert agent.report is not None
    assert agent.report.error is not None
    expected = np.linalg.norm([50, 50] + 2.0 * action - [53, 50]) / np.linalg.norm([53, 50])
    assert agent.report.error.latent == pytest.approx(expected)


def test_an_estimator_adds_errors_of_the_state() -> None:
    agent = agent_in(LinearWorld(), with_options={"estimator": TASK})
    agent.reset(Episode(0, 0))
    imagined = np.round(agent.act({"pixels": frame_at(50, 50)}) + 50)
    agent.act({"pixels": frame_at(50, 53)})
    error = agent.report.error  # type: ignore[union-attr]  # replanned just now
    assert error is not None
    assert error.errors["agent_px"] == error.errors["block_px"] == pytest.approx(np.linalg.norm(imagined - [50, 53]))
    assert error.errors["turn_deg"] == pytest.approx(0.0, abs=1e-9)
    agent.act({"pixels": frame_at(120, 50)})
    error = agent.report.error  # type: ignore[union-attr]  # replanned just now
    assert error is not None
    assert (error.errors["block_px"], error.errors["turn_deg"]) == (None, None)
    assert error.errors["agent_px"] is not None


def test_equal_seeds_act_equally_whatever_came_before() -> None:
    world = LinearWorld(noise=0.5)
    _, fresh, told = drive(agent_in(world), 7, episode=5)
    agent = agent_in(world)
    drive(agent, 4, episode=2)
    _, again, retold = drive(agent, 7, episode=5)
    assert fresh.tobytes() == again.tobytes()
    assert told == retold
    _, other, _ = drive(agent, 7, episode=6)
    assert fresh.tobytes() != other.tobytes()
    _, seeded, _ = drive(agent_in(world, seed=1), 7, episode=5)
    assert fresh.tobytes() != seeded.tobytes()


def test_a_plan_starts_from_what_is_left_of_the_last() -> None:
    agent = agent_in(LinearWorld(), rounds=1, candidates=1, elites=1, with_options={
        "hold": lambda seen: seen["pixels"][0, 0, :2] / 50.0,
    })
    _, actions, _ = drive(agent, 2, start=(50.0, 100.0))
    assert (actions == [1.0, 2.0]).all()  # one candidate: the mean itself
    agent.act({"pixels": frame_at(52, 104)})
    assert agent.act({"pixels": frame_at(53, 106)}) == pytest.approx([1.0, 2.0])
    assert agent.report is not None
    assert agent.report.reason == "schedule"


def test_without_a_way_to_hold_the_search_starts_at_the_centre_of_the_range() -> None:
    _, actions, _ = drive(agent_in(LinearWorld(), rounds=1, candidates=1, elites=1), 1)
    assert (actions == 0.0).all()


def test_it_plans_no_further_than_the_episode() -> None:
    lengths = []

    class Counting(LinearWorld):
        def advance(self, state: Any, actions: np.ndarray, fidelity: Any) -> Any:
            lengths.append(actions.shape[1])
            return super().advance(state, actions, fidelity)

    agent = agent_in(Counting(), knots=3)
    agent.reset(Episode(0, 0))
    for left in (2, 1):
        agent.act({"pixels": frame_at(50, 50)}, steps_left=left)
    assert set(lengths) == {2}
    with pytest.raises(ConfigError, match="steps_left must be 1 or more, got 0"):
        agent.act({"pixels": frame_at(50, 50)}, steps_left=0)


def test_a_deadline_ends_the_search_and_is_reported() -> None:
    _, _, loose = drive(agent_in(LinearWorld(), deadline_ms=1e6), 1)
    assert loose[0].timing.deadline_met is True
    assert not loose[0].exhausted
    hurried = agent_in(LinearWorld(), deadline_ms=10.0, with_options={"clock": Ticking(0.002)})
    _, actions, reports = drive(hurried, 4)
    assert 0 < reports[0].rounds < 4
    assert reports[0].exhausted
    assert reports[0].timing.plan_ms <= reports[0].timing.act_ms
    assert reports[1].timing.plan_ms == 0.0
    assert np.abs(actions).max() <= 4.0


def test_a_hopeless_deadline_follows_the_warm_start() -> None:
    agent = agent_in(LinearWorld(), deadline_ms=1.0, with_options={"clock": Ticking(0.002)})
    _, actions, reports = drive(agent, 1)
    assert (actions == 0.0).all()
    assert (reports[0].cost, reports[0].rounds, reports[0].exhausted) == (None, 0, True)
    assert reports[0].timing.deadline_met is False


def test_calls_bound_the_search_without_a_clock() -> None:
    _, _, reports = drive(agent_in(LinearWorld(), max_calls=70), 1)
    assert (reports[0].rounds, reports[0].calls, reports[0].exhausted) == (2, 64, True)
    assert reports[0].timing.deadline_met is None


def test_it_must_be_reset_first() -> None:
    with pytest.raises(PlanningError, match=r"call reset\(\) before act\(\)"):
        agent_in(LinearWorld()).act({"pixels": frame_at(1, 1)})


@pytest.mark.parametrize(("changes", "message"), [
    ({"candidates": 0}, "greater than or equal to 1"),
    ({"elites": 33}, r"elites must be at most candidates \(32\), got 33"),
    ({"replan_every": 7}, r"replan_every must be at most horizon \(6\), got 7"),
    ({"knots": 7}, r"knots must be at most horizon \(6\), got 7"),
    ({"max_calls": 31}, "max_calls must hold one round of 32 candidates, got 31"),
    ({"deadline_ms": 0.0}, "greater than 0"),
    ({"deadline_ms": float("inf")}, "finite"),
    ({"error_bound": 0.0}, "greater than 0"),
    ({"std_fraction": 1.5}, "less than or equal to 1"),
    ({"refine_steps": -1}, "greater than or equal to 0"),
    ({"horizn": 3}, "Extra inputs are not permitted"),
])
def test_bad_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MPCConfig(**(QUICK | changes))


@pytest.mark.parametrize("refine_steps", [None, 0, 3])
def test_seen_frames_are_refined_as_often_as_asked(refine_steps: int | None) -> None:
    world = LinearWorld()
    drive(agent_in(world, refine_steps=refine_steps), 4)
    assert world.refine_steps[-3:] == [refine_steps] * 3, "the frame that opens an episode is the world's own affair"


@pytest.mark.parametrize("planner", ["icem", "mppi", "shooting"])
def test_any_planner_may_plan(planner: str) -> None:
    point, _, _ = drive(agent_in(LinearWorld(), planner=planner, knots=3), 14)
    assert np.linalg.norm(point - GOAL) <= 6.0


def test_a_rung_scores_all_and_the_next_few() -> None:
    world = LinearWorld()
    _, _, reports = drive(agent_in(world, with_options={"rungs": [Rung(FIDELITY, survivors=5, ticks=3)]}), 1)
    assert world.batches == [32, 5] * 4 + [1]
    assert reports[0].rank_agreement is not None
    assert -1.0 <= reports[0].rank_agreement <= 1.0
    assert reports[0].regret is not None
    assert reports[0].regret >= 0.0


def test_rungs_let_fewer_through_one_after_the_other() -> None:
    world = LinearWorld()
    rungs = [Rung(FIDELITY, survivors=9, ticks=2), Rung(FIDELITY, survivors=3)]
    _, _, reports = drive(agent_in(world, with_options={"rungs": rungs}), 1)
    assert world.batches == [32, 9, 3] * 4 + [1]
    assert reports[0].cost == pytest.approx(0.0, abs=40.0)
    for wrong, message in (([9, 9], "each must let fewer through"), ([0, 3], "each must let fewer through")):
        with pytest.raises(ConfigError, match=message):
            agent_in(world, with_options={"rungs": [Rung(FIDELITY, survivors=count) for count in wrong]})


def test_proposals_are_asked_for_from_where_the_world_stands() -> None:
    asked: list[tuple[int, int]] = []

    def propose(state: Any, observation: Any, length: int, episode: Episode) -> np.ndarray:
        asked.append((int(state.frame[0]), length))
        return np.tile([-4.0, 4.0], (1, length, 1))

    _, actions, _ = drive(agent_in(LinearWorld(), rounds=1, std_fraction=0.01, with_options={"propose": propose}), 4)
    assert asked == [(0, 6), (3, 6)]
    assert actions[0] == pytest.approx([-4.0, 4.0], abs=0.5)


def test_imagined_policies_act_on_what_they_imagine() -> None:
    class Chaser:
        """Goes towards x = 40, one pixel at a time."""

        def reset(self, episode: Episode) -> None:
            begun.append(episode)

        def act(self, observation: Any, steps_left: int | None = None) -> np.ndarray:
            return np.array([float(np.sign(40.0 - observation["agent_pos"][0])), 9.0])

    world = LinearWorld()
    spent, begun, goal = list[int](), list[Episode](), Goal({})
    propose = ImaginedPolicies(world, [Chaser(), Chaser()], observe, FIDELITY,
                               spend=lambda lanes, ticks: spent.append(lanes * ticks))
    state = world.init(frame_at(38, 50)[None, None], np.zeros((1, 0, 2)), np.array([0]))
    ideas = propose(state, {"pixels": frame_at(38, 50)}, 5, Episode(7, 8, "push", goal))
    assert ideas.shape == (2, 5, 2)
    assert ideas[0, :, 0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert (ideas[..., 1] == 4.0).all()  # clipped
    assert spent == [8]
    assert begun == [Episode(0, 0, "push", goal)] * 2
