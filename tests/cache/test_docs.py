"""The example policy of the documentation, as it stands there, is a policy like any other."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from test_cache_policies import hits, roll
from wcsim.cache import NoCache, parse_cache, policy

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/add-a-cache.md").read_text("utf-8")
CODE = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "Gated" in block)


@pytest.fixture
def repeat(tmp_path, monkeypatch):
    (tmp_path / "repeat.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(policy.KINDS, "repeat", importlib.import_module("repeat").Repeat.Config)

    def make(threshold):
        return parse_cache({"kind": "repeat", "threshold": threshold}).build()

    return make


@pytest.mark.filterwarnings("ignore:cache 'repeat' skipped nothing")
def test_it_never_skips_at_0_and_decides_by_lane(repeat):
    plain, _, _ = roll(NoCache(), [0, 1, 2])
    never, _, _ = roll(repeat(0.0), [0, 1, 2])
    assert torch.equal(plain, never)
    together, decisions, _ = roll(repeat(0.5), [0, 1, 2])
    assert 0 < hits(decisions).float().mean() < 1
    for lane in range(3):
        alone, decided, _ = roll(repeat(0.5), [lane])
        torch.testing.assert_close(alone[0], together[lane], rtol=1e-4, atol=1e-4)
        assert torch.equal(hits(decided)[:, 0], hits(decisions)[:, lane])
