"""What was measured is measured once, whoever was killed in between."""

from wcsim.experiments.kept import Kept


def never():
    raise AssertionError("measured again")


def test_kept_over_a_kill(tmp_path):
    path = tmp_path / "new" / "kept.jsonl"
    first = Kept(path, "mine")
    assert first("a", lambda: {"x": (1, 2.5)}) == {"x": [1, 2.5]}
    assert first("a", never) == {"x": [1, 2.5]}
    first("b", lambda: float("nan"))
    with path.open("ab") as file:
        file.write(b'{"name": "c", "val')  # a kill tears the last line
    again = Kept(path, "mine")
    assert again("a", never) == {"x": [1, 2.5]}
    assert again("b", never) is None
    assert again("c", lambda: 3) == 3
    assert Kept(path, "mine")("c", never) == 3


def test_somebody_elses_figures_do_not_count(tmp_path):
    path = tmp_path / "kept.jsonl"
    Kept(path, "mine")("a", lambda: 1)
    assert Kept(path, "yours")("a", lambda: 2) == 2
    assert Kept(path, "mine")("a", lambda: 3) == 3
