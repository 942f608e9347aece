"""Noise depends on seed, frame and stream, and on nothing else."""

import torch

from wcsim.world.noise import PLANNING, SAMPLING, chunk_noise, frame_noise, stream_seeds

SHAPE = (4, 3, 3)


def test_a_lane_does_not_depend_on_its_neighbours_or_slot():
    together = frame_noise(torch.tensor([7, 8, 9]), torch.tensor([1, 5, 1]), SHAPE)
    alone = frame_noise(torch.tensor([8]), torch.tensor([5]), SHAPE)
    assert torch.equal(together[1], alone[0])


def test_a_chunk_is_its_frames():
    seeds, first = torch.tensor([3, 4]), torch.tensor([10, 2])
    chunk = chunk_noise(seeds, first, 3, SHAPE)
    for offset in range(3):
        assert torch.equal(chunk[:, offset], frame_noise(seeds, first + offset, SHAPE))


def test_every_coordinate_of_the_counter_matters():
    def draw(seed, frame, stream):
        return frame_noise(torch.tensor([seed]), torch.tensor([frame]), SHAPE, stream)

    base = draw(1, 2, 0)
    for other in (draw(2, 2, 0), draw(1, 3, 0), draw(1, 2, 1)):
        assert not torch.equal(base, other)
    assert torch.equal(base, draw(1, 2, 0))


def test_is_standard_normal():
    noise = frame_noise(torch.arange(64), torch.zeros(64, dtype=torch.int64), (16, 12, 12))
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_a_stream_of_seeds_is_independent_of_its_own_and_of_other_episodes():
    seeds = torch.arange(1000)
    other = stream_seeds(seeds, PLANNING)
    assert torch.equal(other, stream_seeds(seeds, PLANNING))
    assert (other >= 0).all()
    assert len(set(other.tolist()) | set(seeds.tolist()) | set(stream_seeds(seeds, SAMPLING).tolist())) == 3000
    ours, theirs = (frame_noise(some, torch.ones(1000, dtype=torch.int64), SHAPE).flatten() for some in (seeds, other))
    assert abs(torch.corrcoef(torch.stack([ours, theirs]))[0, 1]) < 0.03
