"""Noise depends on seed, frame and stream, and on nothing else."""

import torch

from wcsim.world.noise import chunk_noise, frame_noise

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
