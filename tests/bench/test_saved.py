"""What was measured is measured once, whoever was killed in between."""

from wcsim.experiments.bench.saved import Saved


def never():
    raise AssertionError("measured again")


def test_kept_over_a_kill(tmp_path):
    path = tmp_path / "new" / "kept.jsonl"
    first = Saved(path, "mine")
    assert first("a", lambda: {"x": (1, 2.5)}) == {"x": [1, 2.5]}
    assert first("a", never) == {"x": [1, 2.5]}
    first("b", lambda: float("nan"))
    with path.open("ab") as file:
        file.write(b'{"name": "c", "val')  # a kill tears the last line
    again = Saved(path, "mine")
    assert again("a", never) == {"x": [1, 2.5]}
    assert again("b", never) is None
    assert again("c", lambda: 3) == 3
    assert Saved(path, "mine")("c", never) == 3


def test_somebody_elses_figures_do_not_count(tmp_path):
    path = tmp_path / "kept.jsonl"
    Saved(path, "mine")("a", lambda: 1)
    assert Saved(path, "yours")("a", lambda: 2) == 2
    assert Saved(path, "mine")("a", lambda: 3) == 3
