"""What reading costs beside training, in processor time (`pytest -m bench`); and memory, which frames do not fill."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from time import process_time

import numpy as np
import pytest
import torch

from simulated_set import record
from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.config import override, read_yaml, validate
from wcsim.data.recordings import open_recordings, read_mosaic
from wcsim.envs.tasks import make_task
from wcsim.train.footage import Footage, FramePool, LatentFootage
from wcsim.train.losses import TransformerLearner
from wcsim.train.recipe import Recipe
from wcsim.train.transformer import Batches, new_transformer, optimizers_of
from wcsim.train.windows import Windows
from wcsim.types import ActionSpec, WorldSpec
from wcsim.world.codec import Codec

WINDOWS, FRAMES = 1000, 8


def footage_of(folder: Path, action: ActionSpec) -> Footage:
    found = open_recordings(folder)
    return Footage.of(found, list(range(len(found.episodes))), action)


def encoded(footage: Footage, codec: Codec, action: ActionSpec, path: Path) -> LatentFootage:
    return LatentFootage.of(footage, codec, action, path, lambda done, total: None, robot_state=False)


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_reading_a_thousand_windows_takes_a_fraction_of_training_on_them(tmp_path, capsys):
    """Windows of 8 frames at 96x96: decoded from a LeRobotDataset, read as latents, and trained on."""
    action = make_task("pusht").action
    record("pusht", tmp_path / "set", episodes=8, steps=60)
    shares = ["transformer.context_shares=[0, 0, 0, 1]", "transformer.chunk_shares=[0, 0, 0, 1]"]
    recipe = validate(Recipe, override(read_yaml("train_pusht_pixels"), shares))
    footage = footage_of(tmp_path / "set", action)
    latents = encoded(footage, Codec.new(dict(recipe.codec.model)).eval(), action, tmp_path / "latents.npy")
    windows, rng = Windows(latents, recipe.transformer), np.random.default_rng(0)

    def decode() -> None:
        number = int(rng.integers(len(footage.lengths)))
        tick = int(rng.integers(footage.lengths[number] - FRAMES + 1))
        assert len(read_mosaic(footage.recordings, number, list(range(tick, tick + FRAMES)))) == FRAMES

    seconds = {"decoded": time_of(decode, WINDOWS), "read as latents": time_of(lambda: windows.draw(8, rng), 125)}
    spec = WorldSpec("x", "pusht", (96, 96), (12, 12, 12), 10.0, action, 4, 4, 5.0, 1e-4, 4)
    learner = TransformerLearner(new_transformer(recipe.transformer, spec), None, recipe.transformer)
    optimizers = optimizers_of(learner.model, None)
    batches = Batches(learner, windows, spec, torch.device("cpu"))

    def train() -> None:
        given = batches.draw(8, rng, torch.Generator().manual_seed(0), 0.0)
        assert given["window"].latents.shape[:2] == (8, FRAMES)
        learner(**given)["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    train()
    trained = time_of(train, 4) * WINDOWS / 8 / 4
    with capsys.disabled():
        for name, taken in seconds.items():
            print(f"\n{WINDOWS} windows {name}: {taken:.1f} s, {taken / trained:.1%} of training on them")
    assert seconds["decoded"] < trained / 4
    assert seconds["read as latents"] < trained / 40


def time_of(call, count: int) -> float:
    began = process_time()
    for _ in range(count):
        call()
    return process_time() - began


def test_memory_does_not_grow_with_the_frames(tmp_path):
    """Numbers of an episode are held; its frames and latents, a thousand times as many bytes, lie in files."""
    spec, _, codec = tiny_parts()
    rng, peaks, frames = np.random.default_rng(0), [], []
    for episodes in (2, 8):
        (tmp_path / f"{episodes}").mkdir()
        for number in range(episodes):
            np.savez(tmp_path / f"{episodes}/{number}.npz", frames=np.zeros((129, 96, 96, 3), np.uint8), fps=10.0,
                     actions=rng.uniform(0, 512, (128, 2)).astype(np.float32))
        footage = footage_of(tmp_path / f"{episodes}", spec.action)
        tracemalloc.start()
        pool = FramePool.of(footage, tmp_path / f"frames-{episodes}.npy", 10_000, lambda done, total: None)
        encoded(footage, codec, spec.action, tmp_path / f"latents-{episodes}.npy")
        peaks.append(tracemalloc.get_traced_memory()[1])
        frames.append(pool.frames.nbytes)
        tracemalloc.stop()
    assert frames[1] == 4 * frames[0]
    assert peaks[1] - peaks[0] < 0.05 * (frames[1] - frames[0])
