from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from wcsim.metrics import images


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def wang_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The formula of the paper, window by window, for one channel."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i : i + 11, j : j + 11].astype(float), b[i : i + 11, j : j + 11].astype(float)
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            cov = (weights * (x - mx) * (y - my)).sum()
            c1, c2 = 6.5025, 58.5225
            values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("offset", [1, 10, 255])
def test_psnr_of_a_constant_offset(offset: int) -> None:
    frames = np.zeros((2, 3, 8, 8, 3), np.uint8)
    expected = 20 * np.log10(255 / offset)
    assert images.psnr_db(frames + np.uint8(offset), frames) == pytest.approx(np.full((2, 3), expected), abs=1e-9)


def test_psnr_of_identical_frames_is_the_cap_exactly() -> None:
    frames = noise(4, 16, 16)
    assert (images.psnr_db(frames, frames) == images.PSNR_CAP_DB).all()


def test_psnr_does_not_wrap_around_uint8() -> None:
    dark, light = np.full((8, 8, 3), 3, np.uint8), np.full((8, 8, 3), 5, np.uint8)
    assert images.psnr_db(dark, light) == images.psnr_db(light, dark)


def test_ssim_of_identical_frames_is_exactly_one() -> None:
    frames = noise(3, 24, 32)
    assert (images.ssim(frames, frames) == 1.0).all()


def test_ssim_of_constant_frames_is_the_luminance_term() -> None:
    a, b = np.full((20, 20, 3), 100, np.uint8), np.full((20, 20, 3), 140, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert images.ssim(a, b) == pytest.approx((2 * 100 * 140 + c1) / (100**2 + 140**2 + c1), abs=1e-9)


def test_ssim_is_the_papers_window_by_window() -> None:
    a = noise(14, 17)
    b = np.clip(a.astype(int) + np.random.default_rng(1).integers(-40, 40, a.shape), 0, 255).astype(np.uint8)
    expected = np.mean([wang_ssim(a[..., c], b[..., c]) for c in range(3)])
    assert images.ssim(a, b) == pytest.approx(expected, abs=1e-10)


def test_ssim_of_a_batch_is_that_of_each_frame() -> None:
    a, b = noise(2, 5, 16, 20), noise(2, 5, 16, 20, seed=1)
    singles = np.array([[images.ssim(a[i, t], b[i, t]) for t in range(5)] for i in range(2)])
    np.testing.assert_array_equal(images.ssim(a, b), singles)
    assert images.ssim(a[:0], b[:0]).shape == (0, 5)


def test_blur_lowers_psnr_and_ssim_together() -> None:
    frame = noise(48, 48)
    blurred = [cv2.GaussianBlur(frame, (0, 0), sigma) for sigma in (0.5, 1.0, 3.0)]
    for measure in (images.psnr_db, images.ssim):
        values = [float(measure(image, frame)) for image in blurred]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("measure", [images.psnr_db, images.ssim])
def test_frames_of_other_kinds_are_refused(measure) -> None:  # type: ignore[no-untyped-def]
    frames = noise(16, 16)
    with pytest.raises(ValueError, match="uint8"):
        measure(frames / 255.0, frames)
    with pytest.raises(ValueError, match="one shape"):
        measure(frames, frames[:-1])


def test_ssim_refuses_frames_below_its_window() -> None:
    with pytest.raises(ValueError, match="11 px"):
        images.ssim(noise(10, 40), noise(10, 40))


def test_latent_distance_is_relative() -> None:
    reference = torch.randn(2, 4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([1.0, 1.5, 0.0, 3.0]).view(1, 4, 1, 1, 1)
    distance = images.latent_distance(reference * scales, reference)
    assert distance.shape == (2, 4)
    np.testing.assert_allclose(distance, [[0.0, 0.5, 1.0, 2.0]] * 2, atol=1e-6)
    assert images.latent_distance(reference.bfloat16(), reference.bfloat16()).max() == 0.0
    with pytest.raises(ValueError, match="one shape"):
        images.latent_distance(reference, reference[:1])
