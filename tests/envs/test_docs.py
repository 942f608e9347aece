"""The newcomer's snippet, wherever it is shown, is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def snippets(name):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text("utf-8"), flags=re.DOTALL)
    return [block for block in blocks if "gym.make(" in block and "branch(" in block]


@pytest.mark.filterwarnings("ignore:cache .* skipped nothing")  # its actions are random
@pytest.mark.parametrize("code", {block for name in ("README.md", "docs/environments.md") for block in snippets(name)})
def test_a_snippet_runs_and_leaves_a_video(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {})
    assert (tmp_path / "videos" / "episode_0000.mp4").stat().st_size > 1000
