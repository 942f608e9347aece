"""What a recipe takes from a simulator: it is played again, it is said, and it goes where the recipe says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simulated_set import record
from tiny_recipe import Silent
from wcsim.config import override, read_yaml, validate
from wcsim.data.recordings import open_recordings
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.paired import PairedTruth
from wcsim.envs.tasks import make_task, play_exploration
from wcsim.errors import ConfigError, DataError
from wcsim.train.bodies import Steps, explored, play_shard, pose_loss
from wcsim.train.footage import Footage
from wcsim.train.privileged import LANDMARK_GAIN, landmark_maps, poses_of, read_halfway, with_simulator
from wcsim.train.privileged_recipe import Landmark, Privileged
from wcsim.train.recipe import Recipe
from wcsim.train.run import train
from wcsim.train.stage import Stage
from wcsim.world.body_dynamics import BodyDynamicsConfig, Estimator
from wcsim.world.checkpoints import read_description
from wcsim.world.world import World

STEPS = 40


def recipe_of(name: str, *changes: str) -> Recipe:
    return validate(Recipe, override(read_yaml(name), changes))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings") / "table"
    record("pusht", folder, episodes=3, steps=STEPS)
    return folder


def footage(folder: Path) -> Footage:
    found = open_recordings(folder)
    return Footage.of(found, list(range(len(found.episodes))), make_task("pusht").action)


def test_the_simulator_plays_recordings_again(table, tmp_path):
    task = make_task("pusht")
    part = with_simulator(footage(table), task, tmp_path / "states.npy", lambda done, total: None)
    assert part.simulator is not None
    for number in range(3):
        looks, _ = play_exploration(task, number, STEPS)
        played = part.simulator[part.first[number] : part.first[number + 1]]
        np.testing.assert_allclose(played, [look.state for look in looks], atol=0.05)
    told = recipe_of("train_tiny").privileged
    assert told is not None
    read = read_halfway(part, told).state
    assert read is not None
    np.testing.assert_allclose(np.hypot(read[:, -2], read[:, -1]), 1.0, rtol=1e-5)


def test_recordings_that_no_simulator_plays_are_refused(table, tmp_path):
    record("pusht", tmp_path / "unseeded", episodes=1, steps=3, seeds=False)
    with pytest.raises(DataError, match="episode 0 has no seed"):
        with_simulator(footage(tmp_path / "unseeded"), make_task("pusht"), tmp_path / "a.npy", lambda done, total: None)
    with pytest.raises(DataError, match=r"its last frame is .* of 255 away from the recorded one"):
        with_simulator(footage(table), make_task("pusht", start="near"), tmp_path / "b.npy", lambda done, total: None)
    assert not (tmp_path / "b.npy").exists()


@pytest.mark.parametrize(("changes", "said"), [
    (["task=recordings"], "privileged needs a task with a simulator"),
    (["privileged.labels=block pose"], "say which, as in 'privileged: block pose'"),
    (["privileged.landmarks=[]"], "disc and bodies need landmarks"),
    (["state_model={schedule: {steps: 1, batch: 1, learning_rate: 1}}"], "a world has one state model"),
])
def test_a_recipe_owns_up(changes, said):
    with pytest.raises(ConfigError, match=said):
        recipe_of("train_tiny", *changes)


def test_reserved_seeds_are_refused(tmp_path):
    told = recipe_of("train_tiny", "privileged.bodies.first_seed=899998").privileged
    assert told is not None
    assert told.bodies is not None
    with pytest.raises(ConfigError, match="reaches seed 900001; seeds from 900000 up are reserved"):
        explored(told.bodies, "pusht", tmp_path / "x.npy", lambda done, total: None)


def test_a_map_is_highest_where_its_landmark_is():
    states = np.array([[44.0, 20.0, 0.0], [4.0, 52.0, np.pi / 2]])
    corner = np.array([[0, 0], [16, 0]])
    maps = landmark_maps([Landmark(name="it", columns=(0, 1), angle=2)], states, corner, (8, 8), 8, 1.0)
    assert maps.shape == (2, 3, 8, 8)
    for one, (row, column) in zip(maps, ((2, 5), (4, 0)), strict=True):
        assert divmod(int(one[0].argmax()), 8) == (row, column)
        assert float(one[0].max()) == pytest.approx(LANDMARK_GAIN)
    torch.testing.assert_close(maps[0, 1], torch.zeros(8, 8))
    torch.testing.assert_close(maps[1, 1], maps[1, 0])


def test_exploration_is_steps_of_poses():
    told = recipe_of("train_tiny").privileged
    assert told is not None
    assert told.bodies is not None
    task = make_task("pusht")
    played = play_shard(range(2), task="pusht", steps=6)
    steps = Steps.of(played, told, told.bodies, task)
    looks, actions = play_exploration(task, 1, 6)
    states = np.array([look.state for look in looks])
    torch.testing.assert_close(steps.poses[1], poses_of(states, told, 96), atol=1e-5, rtol=0)
    torch.testing.assert_close(steps.actions[1], torch.from_numpy(actions / 256 - 1).float(), atol=1e-5, rtol=0)
    assert steps.previous[1, 1, :-1].equal(steps.actions[1, 0])
    assert not steps.previous[:, 0].any()
    assert steps.before[:, 0].equal(steps.poses[:, 0])


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("angled", [(False, False), (False, True)])
def test_the_estimator_learns_to_read(angled):
    estimator = Estimator(BodyDynamicsConfig(angled, (4, 12, 12), 2, width=64))
    poses = torch.rand(2, sum(2 + angle for angle in angled)) - 0.5
    latents = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    optimizer, losses = torch.optim.Adam(estimator.parameters(), 1e-2), []
    for _ in range(40):
        losses.append(pose_loss(estimator, latents, poses))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_stage_goes_on_after_a_kill_and_the_world_says_what_it_was_told(table, tmp_path, monkeypatch):
    def run(out: Path) -> None:
        train(recipe_of("train_tiny"), out, data=(str(table),), shown=Silent(), say=lambda text: None)

    run(tmp_path / "whole")
    saves = Stage._save

    def save_and_die(self: Stage, *given: Any) -> None:
        saves(self, *given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "_save", save_and_die)
    for _ in range(10):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken")
    monkeypatch.undo()
    run(tmp_path / "broken")
    stages = {json.loads(line)["stage"] for line in (tmp_path / "broken/scalars.jsonl").read_text().splitlines()}
    assert stages == {"codec", "disc", "estimator", "forward_model", "transformer"}
    spec, hashes = read_description(tmp_path / "broken/world")
    assert hashes == read_description(tmp_path / "whole/world")[1]
    assert (spec.labels, spec.refine_steps) == ("privileged: block pose", 1)
    world = World.load(tmp_path / "broken/world")
    assert world.state_model is not None
    assert world.state_model.quantities == ("block", "block_angle")


@pytest.mark.slow
def test_the_second_task_has_a_recipe_too(tmp_path):
    for name, first in (("train", 0), ("validation", 500_000)):
        record("pendulum", tmp_path / name, episodes=2, steps=STEPS, first_seed=first)
    quick = [f"data.path={tmp_path}/train", f"data.validation={tmp_path}/validation", "codec.decoder_fraction=0.25",
             *(f"{part}.schedule={{steps: 4, batch: 4, learning_rate: 0.001}}" for part in ("codec", "transformer")),
             "judge={episodes: 2, horizon: 4, steps: [2]}"]
    train(recipe_of("train_pendulum", *quick), tmp_path / "out", shown=Silent(), say=lambda text: None)
    world = tmp_path / "out/world"
    spec, _ = read_description(world)
    assert (spec.task, spec.frame_size, spec.labels) == ("pendulum", (64, 64), "privileged: rod angle and tip position")
    assert sum(path.stat().st_size for path in world.rglob("*.safetensors")) < 5e6
    env = PairedTruth(ImaginedEnv("pendulum", str(world), fidelity={"steps": 2, "cache": "none"}), refresh_every=2)
    env.reset(seed=1)
    assert [env.step(np.array([1.0], np.float32))[4]["refreshed"] for _ in range(2)] == [False, True]
    env.close()


def test_the_recipe_of_the_shipped_world_is_one():
    recipe = recipe_of("train_pusht96")
    assert isinstance(recipe.privileged, Privileged)
    assert set(recipe.shares()) == {"codec", "disc", "estimator", "forward_model", "transformer"}
    assert sum(recipe.shares().values()) == pytest.approx(1.0)
