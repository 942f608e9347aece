"""PushT: where a small disc is, to a fraction of a frame pixel, from how the renderer draws it.

A frame is a table sampled every few pixels, without anti-aliasing: the outline of a disc six pixels wide is a handful
of stairs, and an edge fitted through them is off by half a table pixel.  But there are only so many drawings of it, one
for every whole table pixel it can be at.  So those around a first guess are compared with what is seen, and the
answer is the mean of their places, weighted by how likely each is (the posterior mean; the guess is the prior).  Easy
to get wrong: the likeliest place alone is best on sharp frames and worst on those of a codec, which blur and tint.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from wcsim.envs.pusht_scene import Patch, Scene

REACH_PX = 5
"""Places tried on either side of the first guess, in table pixels."""

PRIOR_PX = 2.0
"""Standard deviation of the first guess, as a prior: places fade out before they end, so that the answer moves smoothly
with the guess."""

STRENGTH = 0.1
"""Standard deviation of the disc's contrast from the drawn one, as a prior: blur makes it faint, most where cut."""

SOFT_PX = 0.5
"""Blur of the drawings in frame pixels: the simulator's frames are sharper, a world's softer."""

DEVIATION = 0.15
"""Standard deviation of a pixel from its drawing, as a share of the disc's own hue.  More than noise alone would make:
errors of neighbouring pixels go together."""


class DrawnDisc:
    """All drawings of a scene's agent.

    axis: `[3]`, the colour direction in which frames are compared, 1 for `scene.agent_colour`.
    """

    def __init__(self, scene: Scene, axis: np.ndarray) -> None:
        self._scene = scene
        # After so many table pixels, and frame pixels, a disc meets the frame's own pixels alike.
        common = math.gcd(int(scene.table), scene.frame_size)
        self._period, self._step = int(scene.table) // common, scene.frame_size // common
        reach = max(radius for radius, _ in scene.agent_discs) + 4 * SOFT_PX * scene.scale
        self._margin = math.ceil(reach / self._period)
        self._side = (2 * self._margin + 1) * self._step
        self.half = math.ceil((reach - SOFT_PX * scene.scale) / scene.scale)
        # Drawn once; a window of it for every place within a period.
        size, period = (2 * self._margin + 1) * self._period, self._period
        across, down = (np.arange(size + period) - (self._margin + 1) * period - shift for shift in scene.agent_drawn)
        distance = np.hypot(across, down[:, None])
        drawn = np.zeros((*distance.shape, 2), dtype=np.float32)
        for radius, colour in scene.agent_discs:
            drawn[distance <= radius] = float(axis @ np.array(colour, dtype=np.float32)), 1.0
        places = [(y, x) for y in range(period, 0, -1) for x in range(period, 0, -1)]
        pictures = [self._sampled(drawn[y : y + size, x : x + size]) for y, x in places]
        self._bank = np.array(pictures).transpose(3, 0, 1, 2).reshape(2, -1)
        tried = np.arange(-REACH_PX, REACH_PX + 1)
        self._tried = np.stack(np.meshgrid(tried, tried), axis=-1).reshape(-1, 2)

    def _sampled(self, drawn: np.ndarray) -> np.ndarray:
        """A window of the table as a frame shows it, `[S + 1, S + 1, 2]`: hue, and share covered by the disc.

        The last row and column are empty, for whatever lies further off.
        """
        sampled = cv2.resize(np.ascontiguousarray(drawn), (self._side, self._side))
        return np.pad(cv2.GaussianBlur(sampled, (0, 0), SOFT_PX), ((0, 1), (0, 1), (0, 0)))

    def locate(self, patch: Patch, behind: np.ndarray, guess: np.ndarray) -> np.ndarray:
        """True places `[N, 2]`, in table pixels x, y.

        patch: hue along the axis of what the walls leave bare, `half` pixels about the guess.  behind: `[N, P]` hue of
        what a disc would hide.  guess: `[N, 2]`, as drawn, at most `REACH_PX` off.
        """
        guessed = guess - self._scene.agent_drawn
        places = np.round(guessed).astype(np.int64)[:, None, :] + self._tried
        cell, phase = np.divmod(places, self._period)
        corner = (cell - self._margin) * self._step
        window = self._scene.pixel(guess)[:, :, None] + np.arange(-self.half, self.half + 1)
        index = window[:, None] - corner[:, :, :, None]
        columns, rows = np.where((index >= 0) & (index < self._side), index, self._side).transpose(2, 0, 1, 3)
        picture = phase[:, :, 1] * self._period + phase[:, :, 0]
        taken = (picture[:, :, None] * (self._side + 1) + rows)[:, :, :, None] * (self._side + 1) + columns[:, :, None]
        hue, covered = (bank[taken].reshape(*picture.shape, behind.shape[1]) for bank in self._bank)
        rest = (patch.weight * (patch.value - behind))[:, None]
        disc = patch.weight[:, None] * (hue - behind[:, None] * covered)
        # Least squares for the contrast of every drawing, bounded by the drawn one.
        pull = (DEVIATION / STRENGTH) ** 2
        strength = ((rest * disc).sum(2) + pull) / (np.square(disc).sum(2) + pull)
        misfit = np.square(rest - strength[:, :, None] * disc).sum(2) + pull * np.square(strength - 1)
        away = np.square(places - guessed[:, None]).sum(2)
        unlikely = misfit / DEVIATION**2 + away / PRIOR_PX**2
        likely = np.exp((unlikely.min(1, keepdims=True) - unlikely) / 2)
        mean: np.ndarray = (likely[:, :, None] * places).sum(1) / likely.sum(1)[:, None]
        return mean
