"""Tokens that belong to no frame: what looks at places does not see them, and a skip carries them along."""

import pytest
import torch

from scripted import hits, play  # type: ignore[import-not-found]  # beside this file
from wcsim.cache import parse_cache
from wcsim.world.guidance import apart, beside

STEPS, LANES, FRAMES, PLACES, TAIL = 9, 2, 3, 4, 5
LOOKS_AT_PLACES: list[dict[str, object]] = [
    {"preset": "seacache", "threshold": 0.6},
    {"preset": "worldcache", "threshold": 0.4},
    {"preset": "worldcache", "threshold": 0.4, "gain": "frame"},
    {"preset": "worldcache", "threshold": 0.4, "gain": "token"},
    {"preset": "worldcache", "error": 0.5, "gain": "frame"},
]


def walk(tokens: int, seed: int) -> torch.Tensor:
    """Tokens, probe and output of every step, each near that of the step before."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(3, 1, LANES, tokens, 6, generator=generator)
    return start + 0.05 * torch.randn(3, STEPS, LANES, tokens, 6, generator=generator).cumsum(1)


@pytest.mark.parametrize("cache", LOOKS_AT_PLACES)
def test_the_tail_neither_changes_a_decision_nor_is_left_behind(cache: dict[str, object]) -> None:
    policy, grid = parse_cache(cache).build(), (FRAMES, 2, PLACES // 2)
    places, tail = walk(FRAMES * PLACES, 0), 100 * walk(TAIL, 1)
    plain, decided, _ = play(policy, *places, grid=grid, context=1)
    whole, told, _ = play(policy, *torch.cat([places, tail], dim=3), grid=grid, context=1, tail=TAIL)
    assert torch.equal(hits(decided), hits(told))
    assert hits(told).any()
    torch.testing.assert_close(whole[:, :, :-TAIL], plain)
    assert (whole[:, :, -TAIL:] - tail[2]).norm() < 0.5 * tail[2].norm()


def test_of_guided_branches_it_comes_last_branch_by_branch() -> None:
    tokens = [torch.arange(16.0).view(1, 8, 2), -torch.arange(16.0).view(1, 8, 2)]
    joined = beside(tokens, 3, 2)
    assert torch.equal(joined[0, :4], torch.cat([tokens[0][0, :2], tokens[1][0, :2]]))
    assert torch.equal(joined[0, -4:], torch.cat([tokens[0][0, -2:], tokens[1][0, -2:]]))
    assert all(torch.equal(a, b) for a, b in zip(apart(joined, 3, 2, 2), tokens, strict=True))
