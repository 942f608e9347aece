"""Conversions change only what was asked for, say it, and go on where they were stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from arm_recordings import SPEC, taken, write
from wcsim.cli import app
from wcsim.data.convert import convert
from wcsim.data.npz import write_npz
from wcsim.data.recordings import Signal, open_recordings
from wcsim.data.views import View, ViewOptions, resize
from wcsim.errors import ConfigError, DataError


def test_there_and_back_is_the_same(tmp_path: Path) -> None:
    written = write(tmp_path / "set")
    convert(open_recordings(tmp_path / "set"), tmp_path / "npz", ViewOptions(cameras=("top",)), form="npz")
    convert(open_recordings(tmp_path / "npz"), tmp_path / "again")
    read = open_recordings(tmp_path / "again")
    assert read.spec.notes == {"from": {"format": "npz", "name": "npz"}}
    for number, (episode, frames) in enumerate(written):
        back = read.episode(number)
        np.testing.assert_array_equal(back.actions, episode.actions)
        np.testing.assert_array_equal(back.state, episode.state)
        assert (back.instruction, back.seed, back.success) == (episode.instruction, episode.seed, episode.success)
        np.testing.assert_array_equal(read.frames(number, "pixels", range(41)), frames["top"])


def test_resampling_adds_changes_and_keeps_the_last_value(tmp_path: Path) -> None:
    written = write(tmp_path / "set")
    view = View(open_recordings(tmp_path / "set"), ViewOptions(fps=5.0, cameras=("wrist",), episodes=("2", "0")))
    assert view.spec.fps == 5.0
    assert [row.frames for row in view.episodes] == [21, 21]
    for number, source in enumerate((2, 0)):
        episode, frames = written[source]
        back = view.episode(number)
        pairs = episode.actions.reshape(20, 2, 3)
        np.testing.assert_allclose(back.actions[:, :2], pairs.sum(1)[:, :2], atol=1e-7)
        np.testing.assert_array_equal(back.actions[:, 2], pairs[:, 1, 2])
        np.testing.assert_array_equal(back.state, np.asarray(episode.state)[::2])
        np.testing.assert_array_equal(view.frames(number, "wrist", [3, 20]), frames["wrist"][[6, 40]])


def test_what_was_changed_is_in_the_metadata(tmp_path: Path) -> None:
    write(tmp_path / "set")
    convert(open_recordings(tmp_path / "set"), tmp_path / "out",
            ViewOptions(fps=5.0, size=(16, 16), fit="squash", cameras=("top",)))
    notes = open_recordings(tmp_path / "out").spec.notes
    assert notes == {"from": {"format": "lerobot", "name": "set"},
                     "resampled": {"from_fps": 10.0, "every": 2, "actions": None},
                     "resized": {"from": {"top": [32, 40]}, "to": [16, 16], "fit": "squash"}}


@pytest.mark.parametrize(("options", "words"), [
    ({"fps": 4.0}, r"has 10 fps, which is no whole multiple of 4; it can become 10, 5, 3.3"),
    ({"fps": 20.0}, "no whole multiple of 20"),
    ({"size": (16, 16)}, "camera 'top' has frames of 32x40, wanted are 16x16; say fit=crop or fit=squash"),
    ({"size": (16, 16), "fit": "stretch"}, "fit is 'stretch'"),
    ({"cameras": ("side",)}, "has no camera 'side'; it has top, wrist"),
    ({"episodes": ("7",)}, "has no episode '7'; it has 0, 1, 2"),
])
def test_what_cannot_be_done_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    write(tmp_path / "set")
    with pytest.raises((ConfigError, DataError), match=words):
        View(open_recordings(tmp_path / "set"), ViewOptions(**options)).spec  # noqa: B018


def test_resampling_needs_to_know_what_actions_are(tmp_path: Path) -> None:
    untold = replace(SPEC, action=Signal(("a", "b", "c")))
    written = write(tmp_path / "set", spec=untold)
    source = open_recordings(tmp_path / "set")
    with pytest.raises(ConfigError, match="actions=change or actions=absolute"):
        View(source, ViewOptions(fps=5.0))
    held = View(source, ViewOptions(fps=5.0, actions="absolute")).episode(0).actions
    np.testing.assert_array_equal(held, written[0][0].actions[1::2])
    added = View(source, ViewOptions(fps=5.0, actions="change")).episode(0).actions
    np.testing.assert_allclose(added, written[0][0].actions.reshape(20, 2, 3).sum(1), atol=1e-7)


@given(height=st.integers(1, 40), width=st.integers(1, 40), tall=st.integers(1, 40), wide=st.integers(1, 40))
def test_a_crop_is_the_middle_and_an_even_picture_stays_even(height: int, width: int, tall: int, wide: int) -> None:
    frame = np.full((height, width, 3), 77, np.uint8)
    for fit in ("crop", "squash"):
        shown = resize(frame, (tall, wide), fit)  # type: ignore[arg-type]
        assert shown.shape == (tall, wide, 3)
        assert (shown == 77).all()
    same = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(same, (height, width), "crop"), same)


def test_a_stopped_conversion_goes_on(tmp_path: Path) -> None:
    """The second source file is spoiled, then mended: the first is not read again."""
    for number in range(3):
        episode, frames = taken(number)
        write_npz(tmp_path / f"{number}.npz", frames["top"], episode, SPEC)
    whole = (tmp_path / "1.npz").read_bytes()
    (tmp_path / "1.npz").write_bytes(whole[:5000])
    with pytest.raises(DataError, match=r"1.npz is no whole .npz file"):
        open_recordings(tmp_path).episodes  # noqa: B018
    (tmp_path / "1.npz").write_bytes(whole)
    np.savez(tmp_path / "1.npz", frames=taken(1)[1]["top"], actions=taken(1)[0].actions[:5])
    with pytest.raises(DataError, match=r"1.npz has 41 frames and actions \[5, 3\]"):
        convert(open_recordings(tmp_path), tmp_path / "out", form="npz")
    assert [path.name for path in (tmp_path / ".out.partial").glob("*.npz")] == ["0.npz"]
    (tmp_path / "1.npz").write_bytes(whole)
    convert(open_recordings(tmp_path), tmp_path / "out", form="npz")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.npz", "1.npz", "2.npz"]
    with pytest.raises(DataError, match="out exists; name a folder that does not"):
        convert(open_recordings(tmp_path), tmp_path / "out", form="npz")


def test_the_command_converts(tmp_path: Path) -> None:
    write(tmp_path / "set")
    done = CliRunner().invoke(app, ["data", "convert", str(tmp_path / "set"), str(tmp_path / "out"), "--size", "16x20",
                                    "--camera", "top", "--episode", "1", "--resample", "5"])
    assert done.exit_code == 0, done.output
    read = open_recordings(tmp_path / "out")
    assert (read.spec.fps, read.spec.cameras.frame_size, len(read.episodes)) == (5.0, (16, 20), 1)
    for wrong, words in ((["--size", "16"], "size '16' is not HEIGHTxWIDTH"),
                         (["--to", "hdf5"], "allowed: lerobot, npz"),
                         (["--to", "npz"], "a .npz file has one camera; choose one of top, wrist")):
        done = CliRunner().invoke(app, ["data", "convert", str(tmp_path / "set"), str(tmp_path / "no"), *wrong])
        assert done.exit_code == 2
        assert words in done.stderr.replace("\n", " ")
        assert not (tmp_path / "no").exists()


KILLED = """
import sys
from pathlib import Path
from wcsim.data.convert import convert
from wcsim.data.recordings import open_recordings
print("ready", flush=True)
convert(open_recordings(sys.argv[1]), Path(sys.argv[2]))
"""


def test_killed_at_any_time_and_run_again_equals_unbroken(tmp_path: Path) -> None:
    """Killed outright three times, later every time; nothing by the name appears before it is whole."""
    write(tmp_path / "set", episodes=12)
    convert(open_recordings(tmp_path / "set"), tmp_path / "unbroken")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "set"), str(tmp_path / "out")]
    for wait in (0.05, 0.15, 0.3):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            running.stdout.readline()
            time.sleep(wait)
            running.kill()
        if (tmp_path / "out").exists():
            break
    else:
        convert(open_recordings(tmp_path / "set"), tmp_path / "out")
    whole, again = ({str(path.relative_to(tmp_path / name)): path.read_bytes()
                     for path in (tmp_path / name).rglob("*") if path.is_file()} for name in ("unbroken", "out"))
    assert whole == again
