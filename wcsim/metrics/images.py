"""How far one frame or latent is from another; errors of a task's quantities are `wcsim.spec.StateSpec.errors`.

Everything is pure and works over any leading axes `...`: frames are uint8 `[..., H, W, 3]`.  Easy to get wrong: equal
frames have an infinite PSNR, which is capped here so that means and JSON stay finite.
"""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor

PSNR_CAP_DB = 100.0
"""PSNR of identical frames, and the most that any pair gets; keeps means and JSON finite."""

SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5


def psnr_db(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio `[...]` in dB over the pixels and colours of each frame, at most `PSNR_CAP_DB`."""
    _check_frames(frames, reference)
    error = (frames.astype(np.float64) - reference) / 255.0
    mse = np.square(error).mean(axis=(-3, -2, -1))
    smallest = 10.0 ** (-PSNR_CAP_DB / 10.0)
    result: np.ndarray = np.minimum(-10.0 * np.log10(np.maximum(mse, smallest)), PSNR_CAP_DB)
    return result


def ssim(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Structural similarity `[...]` of each frame, at most 1, averaged over colours: scikit-image's.

    Wang et al. 2004, eq. 13, with their Gaussian window of 11 px and sigma 1.5 px, population covariances, K1 = 0.01,
    K2 = 0.03, over the pixels where the window fits in the frame.  Raises ValueError for frames smaller than that.
    """
    _check_frames(frames, reference)
    shape = frames.shape[-3:]
    if min(shape[:2]) < SSIM_WINDOW_PX:
        raise ValueError(f"ssim needs frames of {SSIM_WINDOW_PX} px or more along each side, got {list(shape[:2])}")
    pairs = zip(frames.reshape(-1, *shape), reference.reshape(-1, *shape), strict=True)
    return np.array([_ssim(a, b) for a, b in pairs], dtype=np.float64).reshape(frames.shape[:-3])


def _ssim(frame: np.ndarray, reference: np.ndarray) -> float:
    """Of one frame; scikit-image cuts its Gaussian off at 3.5 sigma, which is the paper's window."""
    return float(structural_similarity(
        frame, reference, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=SSIM_SIGMA_PX,
        use_sample_covariance=False))


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
