"""What the transformer is told of the bodies: read where they are, moved as they would, drawn where they go."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wcsim.backbones.cosmos2.tiny import tiny_parts, tiny_state_model
from wcsim.cache.none import NoCache
from wcsim.errors import CheckpointError
from wcsim.types import Fidelity
from wcsim.world.body_dynamics import BodyDynamics, BodyDynamicsConfig, ForwardModel, previous_action
from wcsim.world.body_poses import columns, difference, turn, wrap
from wcsim.world.checkpoints import hash_files, save_world
from wcsim.world.world import World

BODIES = BodyDynamicsConfig(angled=(False, True), latent_shape=(4, 12, 12), actions=2, action_is_place=True, width=16)
coordinate = st.floats(-0.9, 0.9)
angle = st.floats(-3.0, 3.0)


def poses(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, BODIES.pose_size, generator=generator) * 1.6 - 0.8


def replaced(dynamics, trust):
    dynamics.config = replace(dynamics.config, trust=trust, trust_seen=trust)
    return dynamics


def told_world(**settings):
    spec, transformer, codec = tiny_parts(control_channels=BODIES.control_channels)
    return World(spec, transformer, codec, state_model=tiny_state_model(), **settings)


def test_columns_of_a_pose():
    assert columns((False, True, True)) == [(slice(0, 2), None), (slice(2, 4), 4), (slice(5, 7), 7)]
    assert BODIES.pose_size == 5
    assert BODIES.control_channels == 4


@given(coordinate, coordinate, angle)
def test_maps_say_place_and_angle(x, y, turned):
    dynamics = tiny_state_model()
    maps = dynamics.maps(torch.tensor([[0.0, 0.0, x, y, turned]]))[0]
    assert maps.shape == (4, 12, 12)
    bump = maps[1].double()
    # Within the frame the bump's logarithm is a parabola, exactly: its gradient at any cell points at its centre.
    centre = (torch.arange(12).double() + 0.5) / 6 - 1
    step = bump[6, 1:].log() - bump[6, :-1].log()
    found = (centre[1:] + centre[:-1]) / 2 + step / 6
    assert found[4:7].mean().item() == pytest.approx(x, abs=2e-3)
    assert torch.atan2(maps[2].sum(), maps[3].sum()).item() == pytest.approx(math.remainder(turned, math.tau), abs=1e-4)


def test_the_estimator_finds_the_centre_of_a_map():
    estimator = tiny_state_model().estimator
    with torch.no_grad():
        estimator.places.weight.zero_()
        estimator.places.bias.zero_()
        estimator.places.weight[0, 0] = estimator.places.weight[1, BODIES.keypoints] = 1.0  # x and y of the first map
        estimator.features = torch.nn.Identity()
        estimator.keypoints = torch.nn.Identity()
        maps = torch.full((1, BODIES.keypoints, 12, 12), -50.0)
        maps[0, 0, 3, 7] = 50.0
        places, _ = estimator(maps)
    assert places[0, 0].tolist() == pytest.approx([(7 + 0.5) / 6 - 1, (3 + 0.5) / 6 - 1])


@given(st.integers(0, 1000))
def test_the_forward_model_takes_a_pose_where_its_layers_say(seed):
    model = ForwardModel(BODIES)
    now, then = poses(1, seed), poses(1, seed + 1)
    model.layers = torch.nn.Sequential()  # what it reads is then what it says
    model.offset, model.scale = torch.zeros(1), torch.ones(1)
    model.features = lambda *_: model.change(now, then)
    reached = model(now, now, torch.zeros(1, 3), torch.zeros(1, 2))
    torch.testing.assert_close(reached[:, :4], then[:, :4])
    torch.testing.assert_close(wrap(reached[:, 4] - then[:, 4]), torch.zeros(1), atol=1e-5, rtol=0)


@given(st.integers(0, 1000), coordinate, coordinate, angle)
def test_a_push_is_the_same_push_wherever_on_the_table(seed, x, y, turned):
    model = ForwardModel(BODIES)
    before, now = poses(1, seed), poses(1, seed + 1)

    def moved(pose):
        spots = [turn(pose[:, place], torch.tensor([turned])) + torch.tensor([[x, y]])
                 for place in (slice(0, 2), slice(2, 4))]
        return torch.cat([*spots, pose[:, 4:] + turned], dim=1)

    torch.testing.assert_close(model.change(moved(before), moved(now)), model.change(before, now), atol=1e-5, rtol=1e-4)


def estimated(dynamics, latents, actions, known):
    """Poses of frames before which there are none."""
    past = torch.zeros(len(latents), 0, dynamics.config.pose_size)
    return dynamics.update(past, latents, actions, known, seen=False)


@torch.no_grad()
def test_a_lane_is_told_the_same_alone_and_among_others():
    dynamics = tiny_state_model()
    generator = torch.Generator().manual_seed(0)
    latents, actions = torch.randn(5, 3, 4, 12, 12, generator=generator), torch.randn(5, 7, 6, generator=generator)
    known = torch.ones(5, 3, dtype=torch.bool)

    def told(lanes):
        past = estimated(dynamics, latents[lanes], actions[lanes, :3], known[lanes])
        return dynamics.control(past, actions[lanes], known[lanes])

    all_lanes = told(slice(None))
    assert all_lanes.shape == (5, 4, 7, 12, 12)
    for lane in range(5):
        assert told(slice(lane, lane + 1)).equal(all_lanes[lane : lane + 1])


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_bodies_may_have_no_angle():
    dynamics = BodyDynamics(BodyDynamicsConfig((False, False), (4, 12, 12), 3, width=64)).eval()
    known = torch.ones(2, 2, dtype=torch.bool)
    past = estimated(dynamics, torch.randn(2, 2, 4, 12, 12), torch.randn(2, 2, 9), known)
    assert dynamics.control(past, torch.randn(2, 3, 9), known).shape == (2, 2, 3, 12, 12)


@torch.no_grad()
@pytest.mark.parametrize(("count", "known"), [(1, True), (2, False)])
def test_bodies_are_at_rest_where_nothing_is_known_to_have_moved_them(count, known):
    dynamics = tiny_state_model()
    past, actions = poses(2 * count).view(2, count, 5), torch.randn(2, count + 3, 6)
    predicted = dynamics.predict(past, actions, torch.full((2, count), known))
    now = past[:, -1]
    expected = dynamics.forward_model(now, now, torch.zeros(2, 3), actions[:, count, :2])
    torch.testing.assert_close(predicted[:, 0], expected)


@torch.no_grad()
def test_bodies_that_move_go_on_moving():
    dynamics = tiny_state_model()
    past, actions = poses(6).view(2, 3, 5), torch.randn(2, 6, 6)
    told = torch.cat([past, dynamics.predict(past, actions, torch.ones(2, 3, dtype=torch.bool))], dim=1)
    for k in range(3, 6):
        last = previous_action(actions[:, k - 1, :2], torch.ones(2))
        expected = dynamics.forward_model(told[:, k - 2], told[:, k - 1], last, actions[:, k, :2])
        torch.testing.assert_close(told[:, k], expected)


def test_what_led_to_a_pose_says_where_a_body_is_still_going():
    model, action = ForwardModel(BODIES), torch.zeros(1, 2)
    pose = poses(1)
    unknown, one, other = (previous_action(torch.full((1, 2), place), torch.tensor([known])) for place, known in
                           ((0.3, False), (0.3, True), (-0.3, True)))
    said = [model.features(pose, pose, last, action) for last in (unknown, one, other)]
    assert not said[1].equal(said[2])
    assert not said[0].equal(said[1])
    assert previous_action(torch.full((1, 2), 0.7), torch.tensor([False])).equal(torch.zeros(1, 3))


@torch.no_grad()
def test_earlier_frames_say_nothing_where_an_action_is_not_known():
    dynamics = tiny_state_model()
    latents, actions, known = torch.randn(2, 6, 4, 12, 12), torch.randn(2, 6, 6), torch.ones(2, 6, dtype=torch.bool)
    known[:, 2] = False
    all_frames = estimated(dynamics, latents, actions, known)
    torch.testing.assert_close(all_frames[:, 2:], estimated(dynamics, latents[:, 2:], actions[:, 2:], known[:, 2:]))


@torch.no_grad()
def test_what_is_read_corrects_what_was_predicted():
    latents, actions, known = torch.randn(2, 3, 4, 12, 12), torch.randn(2, 3, 6), torch.ones(2, 3, dtype=torch.bool)
    known[1, 2] = False
    read, mixed, predicted = (
        estimated(replaced(tiny_state_model(), trust), latents, actions, known) for trust in (0.0, 0.25, 1.0))
    assert read.equal(tiny_state_model().estimator.read(latents))
    last = previous_action(actions[:, 1, :2], known[:, 1])
    expected = tiny_state_model().forward_model(read[:, 0], read[:, 1], last, actions[:, 2, :2])
    torch.testing.assert_close(predicted[0, 2, :4], expected[0, :4])
    torch.testing.assert_close(mixed[0, 2, :4], 0.75 * read[0, 2, :4] + 0.25 * expected[0, :4])
    assert mixed[1].equal(read[1])  # what led there is not known
    assert mixed[:, :2].equal(read[:, :2])


@torch.no_grad()
def test_a_frame_that_opens_a_rollout_alone_opens_it_at_rest():
    dynamics = tiny_state_model()
    latents, actions = torch.randn(2, 2, 4, 12, 12), torch.randn(2, 2, 6)
    known = torch.tensor([[False, True], [False, False]])
    opened = estimated(dynamics, latents[:, :1], actions[:, :1], known[:, :1])
    then = dynamics.update(opened, latents[:, 1:], actions, known, seen=False)
    read = dynamics.estimator.read(latents)
    expected = dynamics.predict(opened, actions, known[:, :1])[:, 0]
    torch.testing.assert_close(then[0, 0, :4], 0.02 * read[0, 1, :4] + 0.98 * expected[0, :4])
    assert then[1, 0].equal(read[1, 1])  # what led there is not known
    # Two frames that open it together may show bodies that move already.
    assert estimated(dynamics, latents, actions, known).equal(read)


@torch.no_grad()
@given(st.integers(2, 5))
def test_frames_may_come_one_by_one_or_together(first):
    dynamics = tiny_state_model()
    generator = torch.Generator().manual_seed(0)
    latents, actions = torch.randn(2, 6, 4, 12, 12, generator=generator), torch.randn(2, 6, 6, generator=generator)
    known = torch.ones(2, 6, dtype=torch.bool)
    known[:, 0] = False
    together = estimated(dynamics, latents, actions, known)
    past = estimated(dynamics, latents[:, :first], actions[:, :first], known[:, :first])
    rest = dynamics.update(past, latents[:, first:], actions, known, seen=False)
    torch.testing.assert_close(torch.cat([past, rest], dim=1), together)


@torch.no_grad()
def test_what_is_seen_corrects_more_than_what_is_imagined():
    dynamics = tiny_state_model()
    dynamics.config = replace(dynamics.config, trust=1.0, trust_seen=0.0)
    latents, actions, known = torch.randn(2, 3, 4, 12, 12), torch.randn(2, 4, 6), torch.ones(2, 4, dtype=torch.bool)
    past, read = poses(2).view(2, 1, 5), dynamics.estimator.read(latents)
    known[:, 0] = False
    assert dynamics.update(past, latents, actions, known, seen=True).equal(read)
    predicted = dynamics.predict(past, actions, known[:, :1])
    imagined = dynamics.update(past, latents, actions, known, seen=False)
    torch.testing.assert_close(imagined[..., :4], predicted[..., :4])
    # Of a frame to which a known action led from one that nobody has, nothing says how fast the bodies were.
    assert dynamics.update(past, latents, actions, known | True, seen=False)[:, 0].equal(read[:, 0])


@pytest.mark.parametrize("trust", [0.0, 1.0])
def test_the_dynamics_remember_further_than_the_transformer_sees(trust):
    world, rng = told_world(), np.random.default_rng(0)
    replaced(world.state_model, trust)
    spec = world.spec
    count = spec.max_context + 4
    frames = rng.integers(0, 256, (2, count, *spec.frame_size, 3), dtype=np.uint8)
    frames[1, 2:] = frames[0, 2:]
    actions = rng.uniform(spec.action.low, spec.action.high, (1, count, 2)).repeat(2, axis=0)
    # Noise is numbered by seed and frame, so lanes of one seed differ by what is remembered alone.
    state = world.init(frames, actions[:, :-1], [5, 5])
    _, latents, _ = world.advance(state, actions[:, -1:], Fidelity(2, NoCache(), context=1))
    assert latents[0].equal(latents[1]) == (trust == 0)


@given(angle, angle, coordinate)
def test_angles_differ_the_short_way_round(one, other, x):
    poses_ = torch.tensor([[x, x, x, x, one]]), torch.tensor([[0.0, 0.0, 0.0, 0.0, other]])
    less = difference((False, True), *poses_)[0]
    assert less[:4].tolist() == pytest.approx([x] * 4)
    assert less[4].item() == pytest.approx(math.remainder(one - other, math.tau), abs=1e-5)


def test_a_world_is_told_and_keeps_its_lanes_apart(tmp_path):
    world = told_world()
    frames = torch.randint(256, (3, 2, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    past, actions = torch.full((3, 1, 2), 100.0).numpy(), torch.full((3, 4, 2), 300.0).numpy()
    state = world.init(frames.numpy(), past, [1, 2, 3])
    _, together, _ = world.advance(state, actions, Fidelity(cache=NoCache(), steps=3))
    _, alone, _ = world.advance(state.select(torch.tensor([1])), actions[1:2], Fidelity(cache=NoCache(), steps=3))
    assert alone.equal(together[1:2])

    spec, transformer, codec = tiny_parts(control_channels=BODIES.control_channels)
    save_world(tmp_path / "told", spec, transformer, codec, state_model=tiny_state_model(), dtype=None)
    again = World.load(tmp_path / "told")
    _, loaded, _ = again.advance(state, actions, Fidelity(cache=NoCache(), steps=3))
    assert loaded.equal(together)


def test_what_is_drawn_must_be_what_is_read(tmp_path):
    folder = tmp_path / "told"
    spec, transformer, codec = tiny_parts()
    save_world(folder, spec, transformer, codec, state_model=tiny_state_model())
    with pytest.raises(CheckpointError, match="control channels: the transformer has 0, the state model draws 4"):
        World.load(folder)
    spec, transformer, codec = tiny_parts(control_channels=4)
    save_world(folder, spec, transformer, codec,
               state_model=BodyDynamics(BodyDynamicsConfig((False, True), (4, 12, 12), 3, width=16)))
    with pytest.raises(CheckpointError, match="3 coordinates of an action"):
        World.load(folder)
    (folder / "state_model" / "config.json").write_text("{}")
    description = json.loads((folder / "world.json").read_text())
    description["sha256"] = hash_files(folder)
    (folder / "world.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="state_model: kind of state model is None; known: body_dynamics"):
        World.load(folder)
