"""A state model as a part of a world: chosen by its kind, in the units of the task, and honest about its labels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wcsim.errors import CheckpointError
from wcsim.world.body_dynamics import BodyDynamics, BodyDynamicsConfig
from wcsim.world.checkpoints import shipped_worlds
from wcsim.world.state_model import load_state_model
from wcsim.world.world import World

BODIES = BodyDynamicsConfig(angled=(False, True), latent_shape=(4, 12, 12), actions=2, width=16)


def test_values_are_in_the_units_of_the_task():
    model = BodyDynamics(replace(BODIES, extent=(200.0, 100.0), names=("arm", "box")))
    assert model.quantities == ("arm", "box", "box_angle")
    values = model.values(torch.tensor([[[-1.0, -1.0, 0.5, 0.0, 2.0]]]))
    assert {name: value.tolist() for name, value in values.items()} == {
        "arm": [[[0.0, 0.0]]], "box": [[[150.0, 50.0]]], "box_angle": [[[2.0]]]}
    assert BodyDynamics(BODIES).quantities == ("body_0", "body_1", "body_1_angle")


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model = BodyDynamics(replace(BODIES, extent=(512.0, 512.0), labels="privileged: block pose"))
    model.save(tmp_path)
    again = load_state_model(tmp_path)
    assert (again.labels, again.quantities, again.memory_size) == ("privileged: block pose", model.quantities, 5)
    memory, actions, known = torch.randn(2, 3, 5), torch.randn(2, 4, 2), torch.ones(2, 3, dtype=torch.bool)
    assert again.predict(memory, actions, known).equal(model.predict(memory, actions, known))


@pytest.mark.parametrize("kind", [None, "other", "os:system"])
def test_a_folder_cannot_name_code_to_run(tmp_path: Path, kind: str | None) -> None:
    BodyDynamics(BODIES).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "kind": kind}))
    with pytest.raises(CheckpointError, match="kind of state model is .*; known: body_dynamics"):
        load_state_model(tmp_path)


def test_shipped_worlds_say_their_labels() -> None:
    assert {name: World.load(name).spec.labels for name in shipped_worlds()} == {
        "cube-96": "robot state", "pendulum-64": "privileged: rod angle and tip position",
        "pusht-96": "privileged: agent and block pose"}
    model = World.load("pusht-96").state_model
    assert model is not None
    assert model.labels == "privileged: agent and block pose"
    assert model.quantities == ("agent", "block", "block_angle")


def test_lanes_that_begin_together_have_the_memory_of_one_alone(predicting_folder: str) -> None:
    world, rng = World.load(predicting_folder), np.random.default_rng(0)
    height, width = world.spec.frame_size
    frames = rng.integers(0, 256, (5, 2, height, width, 3), dtype=np.uint8)
    actions = rng.uniform(0, 512, (5, 1, 2)).astype(np.float32)
    together = world.init(frames, actions, list(range(5))).model_memory
    assert not together.requires_grad
    for lane in range(5):
        alone = world.init(frames[lane : lane + 1], actions[lane : lane + 1], [lane]).model_memory
        torch.testing.assert_close(alone[0], together[lane], rtol=0, atol=0)
