"""Whatever fails on the way of a call, nothing has moved: lanes, generators, wrappers and truths are as they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from sameness import assert_same
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import PairedTruth
from wcsim.envs.vector import ImaginedVectorEnv
from wcsim.envs.wrappers import ChunkAction
from wcsim.errors import SnapshotError

FIDELITY = {"steps": 2, "cache": "none"}
MOVES = np.random.default_rng(0).uniform(100, 400, (6, 3, 2)).astype(np.float32)


class Failing(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps count, and fails in one lane when it is told to."""

    def __init__(self, env: Any, lane: int) -> None:
        super().__init__(env)
        self.lane, self.fail, self.steps, self.seen = lane, "", 0, list[int]()

    def step(self, action: Any) -> Any:
        """Count, step, and give what is no reward."""
        self.steps += 1
        self.seen.append(self.steps)
        observation, reward, *rest = self.env.step(action)
        here = self.fail == "reward" and self.env.unwrapped.number == self.lane  # type: ignore[attr-defined]
        return observation, np.zeros(2) if here else np.array([reward]), *rest

    def reset(self, **options: Any) -> Any:
        """Reset, and fail afterwards."""
        self.steps = 0
        self.seen.clear()
        answer = self.env.reset(**options)
        if self.fail == "reset" and self.env.unwrapped.number == self.lane:  # type: ignore[attr-defined]
            raise OSError("the disk is full")
        return answer


def vector(folder: str, *inner: Any, mode: str = "NextStep") -> ImaginedVectorEnv:
    return ImaginedVectorEnv(3, task="pusht", world=folder, fidelity=FIDELITY, max_episode_steps=3, autoreset_mode=mode,
                             lane_wrappers=[*inner, lambda env: Failing(env, 1)])


def standing(env: ImaginedVectorEnv) -> list[Any]:
    """All that a refusal must leave alone."""
    return [(one._lane, one.elapsed, one.over, one.start, one.last_trace, one.np_random.bit_generator.state,
             lane.get_wrapper_attr("steps"), list(lane.get_wrapper_attr("seen")), seen)
            for one, lane, seen in zip(env.envs, env.lanes, env._seen, strict=True)]


def assert_unmoved(before: list[Any], after: list[Any]) -> None:
    for (lane, *rest), (now, *others) in zip(before, after, strict=True):
        assert now is lane
        assert [id(one) if one.__class__.__name__ in ("Start", "Trace") else repr(one) for one in rest] == [
            id(one) if one.__class__.__name__ in ("Start", "Trace") else repr(one) for one in others]


@pytest.mark.parametrize("inner", [(), (PairedTruth,)])
def test_a_reward_that_is_none_moves_no_lane_of_a_vector(folder: str, inner: Any) -> None:
    env, twin = vector(folder, *inner), vector(folder, *inner)
    for one in (env, twin):
        one.reset(seed=4)
        one.step(MOVES[0])
    before = standing(env)
    env.set_attr("fail", "reward")
    for _ in range(2):
        with pytest.raises(TypeError, match="must give one number as the reward"):
            env.step(MOVES[1])
        assert_unmoved(before, standing(env))
    env.set_attr("fail", "")
    for move in MOVES[1:4]:
        assert_same(env.step(move), twin.step(move))


def test_rewards_of_one_number_in_an_array_are_numbers(folder: str) -> None:
    env = vector(folder)
    env.reset(seed=4)
    rewards = env.step(MOVES[0])[1]
    assert (rewards.shape, str(rewards.dtype)) == ((3,), "float64")


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_reset_that_fails_in_one_lane_resets_none(folder: str, mode: str) -> None:
    env, twin = vector(folder, mode=mode), vector(folder, mode=mode)
    for one in (env, twin):
        one.reset(seed=4)
        for move in MOVES[: 3 if mode == "NextStep" else 2]:
            one.step(move)
    before = standing(env)
    env.set_attr("fail", "reset")
    for act in (lambda: env.reset(seed=9), lambda: env.reset(), lambda: env.step(MOVES[3])):
        with pytest.raises(OSError, match="the disk is full"):
            act()
        assert_unmoved(before, standing(env))
    env.set_attr("fail", "")
    assert_same(env.step(MOVES[3]), twin.step(MOVES[3]))


def pair(folder: str) -> PairedTruth:
    env = PairedTruth(ImaginedEnv("pusht", folder, fidelity=FIDELITY))
    env.reset(seed=3)
    env.step(MOVES[0, 0])
    return env


@pytest.mark.parametrize(("change", "words"), [
    ({"truth": None}, "truth is damaged"), ({"truth": (1, 2)}, "truth is damaged"),
    ({"frames": (np.zeros((8, 8, 3), np.uint8),)}, "true frames and actions"), ({"frames": ()}, "true frames"),
    ({"actions": (np.full(2, np.nan),) * 3}, "true frames and actions"), ({"since": -1}, "steps after a true frame"),
    ({"since": "x"}, "steps after a true frame"), ({"scale": float("nan")}, "steps after a true frame"),
    ({"imagined": None}, "got NoneType"),
])
def test_a_pair_is_never_half_restored(folder: str, change: dict[str, Any], words: str) -> None:
    env, twin = pair(folder), pair(folder)
    good = env.snapshot()
    for one in (env, twin):
        one.step(MOVES[1, 0])
    bad = replace(good, **change)
    if words == "true frames and actions" and "actions" in change:
        bad = replace(bad, frames=good.frames * 2)
    with pytest.raises(SnapshotError, match=words):
        env.restore(bad)
    assert_same(env.step(MOVES[2, 0]), twin.step(MOVES[2, 0]))
    env.restore(good)
    env.close()
    twin.close()


def test_a_truth_that_gives_up_holds_the_imagination_back(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env, twin = pair(folder), pair(folder)
    lane = env.unwrapped._lane  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(type(env.truth), "step", lambda *_: (_ for _ in ()).throw(ArithmeticError("no solution")))
        with pytest.raises(ArithmeticError):
            env.step(MOVES[1, 0])
    assert env.unwrapped._lane is lane  # type: ignore[attr-defined]
    assert_same(env.step(MOVES[1, 0]), twin.step(MOVES[1, 0]))


def test_a_chunk_that_fails_on_its_way_is_not_played(folder: str) -> None:
    class Third(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            observation, reward, *rest = self.env.step(action)
            return observation, "none" if self.env.unwrapped.elapsed == 2 else reward, *rest  # type: ignore[attr-defined]

    base = ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    env = ChunkAction(Third(base), 3)
    env.reset(seed=3)
    lane = base.lane
    with pytest.raises(TypeError, match="one number as the reward"):
        env.step(MOVES[:3, 0])
    assert base.lane is lane
    assert base.elapsed == 0


@pytest.mark.parametrize("part", ["robot", "pixels", "latent", "changed", "state", "actions", "latents", "trace",
                                  "shown", "elapsed", "over", "generator"])
def test_a_snapshot_in_memory_is_checked_like_a_file(folder: str, part: str) -> None:
    env = ImaginedEnv("pusht", folder, fidelity=FIDELITY)
    env.reset(seed=3)
    env.step(MOVES[0, 0])
    env.expect(MOVES[1:4, 0])
    env.step(MOVES[1, 0])
    good = env.snapshot()
    lane: Any = good.lane
    ahead = {"actions": lane.ahead.actions[:1], "latents": lane.ahead.latents[0], "shown": 7,
             "trace": replace(lane.ahead.trace, hit=lane.ahead.trace.hit[0])}
    inner = {"robot": lane.robot[:1], "pixels": lane.pixels[::-1, :5], "latent": lane.latent[None], "changed": None,
             "state": replace(lane.state, frame=lane.state.frame - 99)}
    if part in ahead:
        bad = replace(good, lane=replace(lane, ahead=replace(lane.ahead, **{part: ahead[part]})))
    elif part in inner:
        bad = replace(good, lane=replace(lane, **{part: inner[part]}))
    else:
        broken: dict[str, Any] = {part: None}
        bad = replace(good, **broken)
    with pytest.raises(SnapshotError, match="the snapshot"):
        env.restore(bad)
    assert env.lane is lane
    assert env.restore(good)["pixels"].shape == (96, 96, 3)


def test_the_highest_seed_is_refused_in_lanes_that_would_pass_it(folder: str) -> None:
    env = vector(folder)
    env.reset(seed=4)
    before = standing(env)
    for seed in (2**63 - 1, 2**63, [0, 1, 2**63], np.uint64(2**63 + 1)):
        with pytest.raises(gym.error.Error, match="a seed is an integer from 0 to"):
            env.reset(seed=seed)
        assert_unmoved(before, standing(env))
