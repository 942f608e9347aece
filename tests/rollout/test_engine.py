"""The rollout loop on PushT's simulator and a tiny world: who acts, what is told, and who listens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wcsim.agents.policies import PerLane, RandomPolicy, ReplayPolicy
from wcsim.cache.fidelity import FidelityConfig
from wcsim.envs.lanes import load_world
from wcsim.envs.tasks import Start, Task, make_task
from wcsim.errors import ActionError
from wcsim.estimate import Episode, Estimate
from wcsim.rollout.engine import opening, rollout, within
from wcsim.rollout.events import EpisodeBegin, EpisodeEnd, Event, Step
from wcsim.rollout.places import Place, TruthPlace, WorldPlace
from wcsim.rollout.sinks import Recorder, VideoSink, listen

SEEDS = (700_001, 700_002, 700_003)


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task("pusht", start="near")


def never(estimate: Estimate, lanes: np.ndarray) -> np.ndarray:
    return np.zeros(len(lanes), dtype=bool)


def openings(task: Task, seeds: Sequence[int] = SEEDS) -> tuple[list[Start], list[Episode]]:
    pairs = [opening(task, number, seed) for number, seed in enumerate(seeds)]
    return [start for start, _ in pairs], [episode for _, episode in pairs]


def play(task: Task, places: dict[str, Place], policy: Any, seeds: Sequence[int] = SEEDS, **settings: Any) -> Recorder:
    starts, episodes = openings(task, seeds)
    recorder = Recorder()
    listen(rollout(task, places, policy, episodes, starts, **{"ends": never, "max_steps": 3, **settings}), [recorder])
    for place in places.values():
        place.close()
    return recorder


def random_policy(task: Task, lanes: int) -> PerLane:
    return PerLane([RandomPolicy(task.action, hold=1, seed=5) for _ in range(lanes)])


def test_actions_beyond_the_bounds_are_clipped_and_counted(task: Task) -> None:
    actions, clipped = within(task.action, np.array([[-1.0, 5.0], [0.0, 512.0], [1e9, 600.0]]))
    assert actions.tolist() == [[0.0, 5.0], [0.0, 512.0], [512.0, 512.0]]
    assert clipped.tolist() == [True, False, True]
    with pytest.raises(ActionError, match="finite"):
        within(task.action, np.array([[np.nan, 0.0]]))


def test_the_truth_plays_what_the_policy_asks_and_clips_it(task: Task) -> None:
    wishes = np.array([[100.0, 700.0], [120.0, 200.0]])
    recorder = play(task, {"truth": TruthPlace(task)}, Wishing(wishes), SEEDS[:1], acts_in="truth", max_steps=2)
    (kept,) = recorder.episodes
    truth = task.make_truth()
    truth.restore(kept.start.truth)
    by_hand = [truth.step(action) for action in np.clip(wishes, 0, 512)]
    truth.close()
    assert np.array_equal(kept.places["truth"].frames[-1], by_hand[-1].pixels)
    for name, value in by_hand[-1].estimate.values.items():
        assert np.array_equal(kept.places["truth"].scored[-1].values[name], value)
    assert kept.clipped == [True, False]
    assert kept.ended is False


class Wishing:
    """The same wishes in every lane, and what it was shown."""

    def __init__(self, wishes: np.ndarray) -> None:
        self.wishes, self.seen = wishes, list[Any]()
        self.reports: Sequence[None] = []

    def reset(self, mask: np.ndarray, episodes: Sequence[Episode]) -> None:
        self.reports, self.seen = [None] * len(mask), []

    def act(self, observations: Any, steps_left: int | None = None) -> np.ndarray:
        self.seen.append((observations["active"].copy(), steps_left, observations["agent_pos"].copy()))
        lanes = len(observations["active"])
        return np.repeat(self.wishes[min(len(self.seen), len(self.wishes)) - 1][None], lanes, axis=0)


class TwoFunctions:
    """What the guide asks of a policy, and no more."""

    def reset(self, mask: np.ndarray, episodes: Sequence[Episode]) -> None:
        """Nothing to forget."""

    def act(self, observations: Any, steps_left: int | None = None) -> np.ndarray:
        """Stay."""
        return np.asarray(observations["agent_pos"], np.float64)


def test_a_policy_needs_two_functions_alone(task: Task) -> None:
    recorder = play(task, {"truth": TruthPlace(task)}, TwoFunctions(), acts_in="truth")
    assert [record.reports for record in recorder.episodes] == [[None] * 3] * 3


def test_lanes_that_end_leave_the_batch_and_the_others_go_on(task: Task) -> None:
    def second_ends_first(estimate: Estimate, lanes: np.ndarray) -> np.ndarray:
        return lanes == 1

    starts, episodes = openings(task)
    policy, place = Wishing(np.array([[256.0, 256.0]])), TruthPlace(task)
    events = list(rollout(task, {"truth": place}, policy, episodes, starts, acts_in="truth", max_steps=3,
                          ends=second_ends_first))
    place.close()
    assert [event.lanes.tolist() for event in events if isinstance(event, Step)] == [[0, 1, 2], [0, 2], [0, 2]]
    assert [(end.lane, end.steps, end.ended) for end in events if isinstance(end, EpisodeEnd)] == [
        (1, 1, True), (0, 3, False), (2, 3, False)]
    assert [(active.tolist(), left) for active, left, _ in policy.seen] == [
        ([True] * 3, 3), ([True, False, True], 2), ([True, False, True], 1)]
    robots = [robot for _, _, robot in policy.seen]
    assert not np.array_equal(robots[1][0], robots[2][0])
    assert np.array_equal(robots[1][1], robots[2][1])


def test_one_lane_of_many_is_one_alone(task: Task, folder: str) -> None:
    world = load_world(folder)
    fidelity = FidelityConfig(steps=4, cache={"preset": "worldcache", "threshold": 0.3}).build(world.spec)

    def places() -> dict[str, Place]:
        return {"truth": TruthPlace(task), "world": WorldPlace(task, world, fidelity)}

    many = play(task, places(), random_policy(task, 3), acts_in="world").episodes
    for number, seed in enumerate(SEEDS):
        starts, episodes = [opening(task, number, seed)[0]], [opening(task, number, seed)[1]]
        alone, both = Recorder(), places()
        listen(rollout(task, both, random_policy(task, 1), episodes, starts, acts_in="world", max_steps=3, ends=never),
               [alone])
        (kept,) = alone.episodes
        assert np.array_equal(kept.actions, many[number].actions)
        for name, place in kept.places.items():
            assert np.array_equal(place.frames, many[number].places[name].frames)
        assert [trace.hit.tolist() for trace in kept.places["world"].traces] == [
            trace.hit.tolist() for trace in many[number].places["world"].traces]


def test_places_play_the_same_actions_and_the_policy_sees_one(task: Task, folder: str) -> None:
    world = load_world(folder)
    fidelity = FidelityConfig(steps=2).build(world.spec)
    actions = np.array([[10.0, 20.0], [400.0, 30.0]])
    policy = PerLane([ReplayPolicy(task.action, actions)])
    both = {"truth": TruthPlace(task, observed=False, encode=world.encode), "world": WorldPlace(task, world, fidelity)}
    (kept,) = play(task, both, policy, SEEDS[:1], acts_in="world", max_steps=2).episodes
    assert np.array_equal(kept.actions, actions)
    assert [len(place.frames) for place in kept.places.values()] == [3, 3]
    assert [len(place.latents) for place in kept.places.values()] == [2, 2]
    assert np.array_equal(kept.places["truth"].frames[0], kept.places["world"].frames[0])
    assert {"imagine", "decode", "estimate"} <= kept.places["world"].spans_ms[0].keys()


def test_sinks_are_told_in_order_and_closed_even_after_a_failure(task: Task) -> None:
    heard: list[str] = []

    class Listener:
        def __init__(self, name: str) -> None:
            self.name = name

        def on(self, event: Event) -> None:
            heard.append(f"{self.name} {type(event).__name__}")
            if isinstance(event, Step):
                raise RuntimeError("full disk")

        def close(self) -> None:
            heard.append(f"{self.name} closed")

    starts, episodes = openings(task, SEEDS[:1])
    place = TruthPlace(task)
    with pytest.raises(RuntimeError, match="full disk"):
        listen(rollout(task, {"truth": place}, random_policy(task, 1), episodes, starts, acts_in="truth", max_steps=3),
               [Listener("one"), Listener("two")])
    place.close()
    assert heard == [f"one {EpisodeBegin.__name__}", f"two {EpisodeBegin.__name__}", "one Step", "one closed",
                     "two closed"]


def test_a_film_has_every_frame_of_every_place(task: Task, tmp_path: Path) -> None:
    starts, episodes = openings(task, SEEDS[:2])
    place = TruthPlace(task)
    listen(rollout(task, {"truth": place}, random_policy(task, 2), episodes, starts, acts_in="truth", max_steps=3,
                   ends=never), [VideoSink(tmp_path / "films", fps=task.fps, scale=2)])
    place.close()
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == ["episode_0000.mp4", "episode_0001.mp4"]
    film = cv2.VideoCapture(str(tmp_path / "films" / "episode_0001.mp4"))
    shapes = [film.read()[1].shape for _ in range(4)]
    assert shapes == [(192, 192, 3)] * 4
    assert not film.read()[0]
