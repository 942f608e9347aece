"""How far one frame or latent is from another; errors of a task's quantities are `wcsim.spec.StateSpec.errors`.

Everything is pure and works over any leading axes `...`: frames are uint8 `[..., H, W, 3]`.  Easy to get wrong: equal
frames have an infinite PSNR, which is capped here so that means and JSON stay finite.
"""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

PSNR_CAP_DB = 100.0
"""PSNR of identical frames, and the most that any pair gets; keeps means and JSON finite."""

SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2

FRAMES_PER_BATCH = 64
"""Frames whose SSIM is computed together; bounds memory, changes no number."""


def psnr_db(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio `[...]` in dB over the pixels and colours of each frame, at most `PSNR_CAP_DB`."""
    _check_frames(frames, reference)
    error = (frames.astype(np.float64) - reference) / 255.0
    mse = np.square(error).mean(axis=(-3, -2, -1))
    smallest = 10.0 ** (-PSNR_CAP_DB / 10.0)
    result: np.ndarray = np.minimum(-10.0 * np.log10(np.maximum(mse, smallest)), PSNR_CAP_DB)
    return result


def ssim(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Structural similarity `[...]` of each frame, at most 1, averaged over colours.

    Wang et al. 2004, eq. 13, with their Gaussian window of 11 px and sigma 1.5 px, population covariances, K1 = 0.01,
    K2 = 0.03, over the pixels where the window fits in the frame.  Raises ValueError for frames smaller than that.
    """
    _check_frames(frames, reference)
    shape = frames.shape[-3:]
    if min(shape[:2]) < SSIM_WINDOW_PX:
        raise ValueError(f"ssim needs frames of {SSIM_WINDOW_PX} px or more along each side, got {list(shape[:2])}")
    a, b = frames.reshape(-1, *shape), reference.reshape(-1, *shape)
    result = np.empty(len(a))
    for start in range(0, len(a), FRAMES_PER_BATCH):
        batch = slice(start, start + FRAMES_PER_BATCH)
        result[batch] = _ssim_map(a[batch].astype(np.float64), b[batch].astype(np.float64)).mean(axis=(1, 2, 3))
    return result.reshape(frames.shape[:-3])


def _ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variance_a = _window_mean(a * a) - mean_a * mean_a
    variance_b = _window_mean(b * b) - mean_b * mean_b
    covariance = _window_mean(a * b) - mean_a * mean_b
    luminance = (2.0 * mean_a * mean_b + SSIM_C1) / (mean_a * mean_a + mean_b * mean_b + SSIM_C1)
    structure = (2.0 * covariance + SSIM_C2) / (variance_a + variance_b + SSIM_C2)
    result: np.ndarray = luminance * structure
    return result


def _window_mean(images: np.ndarray) -> np.ndarray:
    """Gaussian means of `[B, H, W, 3]` where the window fits: `[B, H - 10, W - 10, 3]`."""
    margin = SSIM_WINDOW_PX // 2
    kernel = cv2.getGaussianKernel(SSIM_WINDOW_PX, SSIM_SIGMA_PX, cv2.CV_64F)
    # The frames are filtered as one tall image: rows that mix two frames are the ones that the margin cuts off.
    tall = cv2.sepFilter2D(images.reshape(-1, *images.shape[2:]), cv2.CV_64F, kernel, kernel)
    return np.asarray(tall).reshape(images.shape)[:, margin:-margin, margin:-margin]


def latent_distance(latents: Tensor, reference: Tensor) -> np.ndarray:
    """Relative L2 distance `||latents - reference|| / ||reference||`, float64 `[...]`, of latents `[..., C, h, w]`.

    0 is equal; unrelated latents of unit variance are about 1.41.  Inf or NaN where the reference is all zero.
    """
    if latents.shape != reference.shape or latents.ndim < 3:
        given = f"{list(latents.shape)} and {list(reference.shape)}"
        raise ValueError(f"latents must be two of one shape [..., C, h, w], got {given}")
    a, b = latents.detach().cpu().double().flatten(-3), reference.detach().cpu().double().flatten(-3)
    distance: np.ndarray = ((a - b).norm(dim=-1) / b.norm(dim=-1)).numpy()
    return distance


def _check_frames(frames: np.ndarray, reference: np.ndarray) -> None:
    for value in (frames, reference):
        if value.dtype != np.uint8 or value.ndim < 3 or value.shape[-1] != 3:
            raise ValueError(f"frames must be uint8 [..., H, W, 3], got {value.dtype} {list(value.shape)}")
    if frames.shape != reference.shape:
        raise ValueError(f"frames must be of one shape, got {list(frames.shape)} and {list(reference.shape)}")
