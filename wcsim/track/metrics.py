"""How far one frame, latent or pose is from another.

Everything is pure and works over any leading axes `...`: frames are uint8 `[..., H, W, 3]`; poses `[..., 5]` hold
agent x, agent y, block x, block y (pixels of the simulator's 512 px table, not of the frame) and block angle (radians),
as the simulator's state begins.  Easy to get wrong: a pose that the judge could not read is NaN, and stays NaN here.
"""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor

PSNR_CAP_DB = 100.0
"""PSNR of identical frames, and the most that any pair gets; keeps means and JSON finite."""

POSE_SIZE = 5

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


def agent_px(poses: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distance `[...]` between agents, in simulator pixels, of poses `[..., 5]`."""
    difference = _pose_difference(poses, reference)
    return np.asarray(np.hypot(difference[..., 0], difference[..., 1]))


def block_px(poses: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Distance `[...]` between blocks, in simulator pixels, of poses `[..., 5]`."""
    difference = _pose_difference(poses, reference)
    return np.asarray(np.hypot(difference[..., 2], difference[..., 3]))


def block_deg(poses: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Smallest turn `[...]` between blocks, 0 to 180 degrees, of poses `[..., 5]`; full turns in either are ignored."""
    turn = _pose_difference(poses, reference)[..., 4]
    return np.degrees(np.abs((turn + np.pi) % (2.0 * np.pi) - np.pi))


def _check_frames(frames: np.ndarray, reference: np.ndarray) -> None:
    for value in (frames, reference):
        if value.dtype != np.uint8 or value.ndim < 3 or value.shape[-1] != 3:
            raise ValueError(f"frames must be uint8 [..., H, W, 3], got {value.dtype} {list(value.shape)}")
    if frames.shape != reference.shape:
        raise ValueError(f"frames must be of one shape, got {list(frames.shape)} and {list(reference.shape)}")


def _pose_difference(poses: np.ndarray, reference: np.ndarray) -> np.ndarray:
    a, b = np.asarray(poses, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.shape[-1:] != (POSE_SIZE,):
        raise ValueError(f"poses must be two of one shape [..., {POSE_SIZE}], got {list(a.shape)} and {list(b.shape)}")
    return a - b
