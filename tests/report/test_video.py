from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from wcsim.report.video import CAPTION, MARGIN, PLACE_COLOURS, Clip, compose, encode_mp4

T = 5


def clip(height: int = 96, width: int = 96) -> Clip:
    rng = np.random.default_rng(0)
    frames = {place: rng.integers(0, 256, (T + 1, height, width, 3), dtype=np.uint8)
              for place in ("truth", "cached", "uncached")}
    return Clip(frames, {"cached": np.arange(T, dtype=float), "uncached": np.full(T, np.nan)})


def test_frames_stand_side_by_side_four_times_as_large() -> None:
    given = clip()
    pictures = list(compose(given))
    assert len(pictures) == T + 1
    for step, picture in enumerate(pictures):
        for column, place in enumerate(("truth", "cached", "uncached")):
            left = MARGIN + column * (384 + MARGIN)
            shown = picture[CAPTION : CAPTION + 384, left : left + 384]
            for y in range(4):
                for x in range(4):
                    np.testing.assert_array_equal(shown[y::4, x::4], given.frames[place][step])


@pytest.mark.parametrize(("height", "width"), [(96, 96), (61, 83), (256, 400)])
def test_sides_suit_every_player(height: int, width: int) -> None:
    picture = next(compose(clip(height, width)))
    assert picture.dtype == np.uint8
    assert (picture.shape[0] % 16, picture.shape[1] % 16) == (0, 0)


def test_what_was_not_measured_draws_no_curve() -> None:
    strip = list(compose(clip()))[-1][CAPTION + 384 + 50 :]
    drawn = {place: (np.abs(strip.astype(int) - tint).max(axis=-1) < 8).any() for place, tint in PLACE_COLOURS.items()}
    assert drawn == {"truth": False, "cached": True, "uncached": False}


def test_nothing_measured_at_all() -> None:
    given = clip()
    assert len(list(compose(Clip(given.frames, dict.fromkeys(given.errors, np.full(T, np.nan)))))) == T + 1


@pytest.mark.parametrize("title", ["Error", "The place of a very long name of a very small thing error, millimetres"])
def test_the_words_of_a_strip_stay_inside(title: str) -> None:
    given = clip(32, 32)
    (first, *_, last) = compose(Clip(given.frames, {"cached": np.full(T, 123456.7), "uncached": np.zeros(T)}, title))
    assert last.shape == first.shape
    margin = last[CAPTION + 384 :, -MARGIN // 2 :]
    assert (margin == margin[0, 0]).all()
    assert (last[CAPTION + 384 :] != margin[0, 0]).any()


def test_what_has_no_value_at_the_start_begins_at_the_first_step() -> None:
    given = clip()
    errors = {"cached": np.full(T, 30.0)}
    strips = [list(compose(Clip(given.frames, errors, "PSNR, dB", start)))[-1][CAPTION + 384 + 50 :, : 3 * MARGIN]
              for start in (30.0, np.nan)]
    drawn = [(np.abs(strip.astype(int) - PLACE_COLOURS["cached"]).max(axis=-1) < 8).any() for strip in strips]
    assert drawn == [True, False]


def test_the_file_plays_at_the_rate_of_the_world(tmp_path: Path) -> None:
    pictures = list(compose(clip()))
    content = encode_mp4(iter(pictures), fps=10.0)
    assert content == encode_mp4(iter(pictures), fps=10.0)
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert content.index(b"moov") < content.index(b"mdat")  # it starts before it is whole
    video = cv2.VideoCapture(str(path))
    shape = tuple(int(video.get(key)) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    assert (shape, video.get(cv2.CAP_PROP_FPS)) == (pictures[0].shape[:2], 10.0)
    codes = [video.get(key) for key in (cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_CODEC_PIXEL_FORMAT)]
    assert [int(code).to_bytes(4, "little") for code in codes] == [b"h264", b"I420"]
    count = 0
    while video.read()[0]:
        count += 1
    video.release()
    assert count == T + 1
