"""The newcomer's snippets, wherever they are shown, are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/environments.md", "docs/quickstart.md")


def snippet(page: str) -> str:
    """The page's first block of Python."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)[0]


@pytest.mark.filterwarnings("ignore:cache .* skipped nothing")  # its actions are random
@pytest.mark.parametrize("page", PAGES)
def test_a_snippet_runs_as_it_stands(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = snippet(page)
    assert "gym.make(" in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {})
    if "Recorder(" in code:
        assert (tmp_path / "videos" / "episode_0000.mp4").stat().st_size > 1000
