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
PAGE = (ROOT / "docs/caching.md").read_text("utf-8")
CODE = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "Gated" in block)


@pytest.fixture
def hold(tmp_path, monkeypatch):
    (tmp_path / "hold.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(policy.KINDS, "hold", importlib.import_module("hold").Hold.Config)

    def make(threshold):
        return parse_cache({"kind": "hold", "threshold": threshold}).build()

    return make


@pytest.mark.filterwarnings("ignore:cache 'hold' skipped nothing")
def test_it_never_skips_at_0_and_decides_by_lane(hold):
    plain, _, _ = roll(NoCache(), [0, 1, 2])
    never, _, _ = roll(hold(0.0), [0, 1, 2])
    assert torch.equal(plain, never)
    together, decisions, _ = roll(hold(0.5), [0, 1, 2])
    assert 0 < hits(decisions).float().mean() < 1
    for lane in range(3):
        alone, decided, _ = roll(hold(0.5), [lane])
        torch.testing.assert_close(alone[0], together[lane], rtol=1e-4, atol=1e-4)
        assert torch.equal(hits(decided)[:, 0], hits(decisions)[:, lane])


def test_every_page_is_reached_and_every_link_leads_somewhere():
    pages = [ROOT / "docs/caching.md", *sorted((ROOT / "docs/caching").glob("*.md"))]
    linked = {(page.parent / name).resolve() for page in pages
              for name in re.findall(r"\]\(([\w/.-]+\.md)\)", page.read_text("utf-8"))}
    assert [path for path in linked if not path.exists()] == []
    assert set(pages[1:]) <= linked


def test_every_test_that_a_page_names_exists():
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = {name for page in (ROOT / "docs/caching").glob("*.md")
             for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8"))}
    assert [name for name in named if f"def {name}(" not in tests] == []
