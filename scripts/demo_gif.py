"""The README's clip: one episode of a run as an animated GIF.

python scripts/demo_gif.py runs/demo docs/demo.gif --episode 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import imageio.v3 as imageio

from wcsim.report.page import clip_of
from wcsim.report.video import compose
from wcsim.runs.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("gif", type=Path, help="file to write")
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--width", type=int, default=720, help="pixels")
    arguments = parser.parse_args()
    pictures = list(compose(clip_of(Run(arguments.run), arguments.episode)))
    size = arguments.width, round(arguments.width * pictures[0].shape[0] / pictures[0].shape[1])
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    imageio.imwrite(arguments.gif, [*small, *[small[-1]] * 10], duration=150, loop=0)


if __name__ == "__main__":
    main()
