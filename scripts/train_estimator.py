"""Train the arm's pixel estimator on simulator frames, and print its errors on episodes that it has not seen.

    python scripts/collect_dataset.py --task cube --seeds 0:288 --out data/cube-train
    python scripts/train_estimator.py --train data/cube-train/part-* --held-out data/cube-val/part-* --out FILE

Labels come from the simulator: an episode's seed gives the same exploration again, without rendering.  No frame of a
world is ever seen here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from wcsim.data.recordings import open_recordings
from wcsim.envs.cube_estimator import decode, encode, network, run
from wcsim.envs.cube_truth import values_of
from wcsim.envs.tasks import Truth, make_task, watch_exploration

TASK = "cube"
REPLAYED = 1e-4
"""How far a replay may be from what was recorded in float32, in cm and rad."""
NOISES = 8
"""Noise pictures of a batch, which its frames share: drawing one takes as long as a third of the rest."""


def labelled(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Frames `[N, H, W, 3]` uint8 of datasets, and the simulator's states `[N, 9]` there."""
    task, frames, states = make_task(TASK, render=False), [], []

    def see(truth: Truth) -> np.ndarray:
        return truth.state

    for path in paths:
        recordings = open_recordings(path)
        for number in range(len(recordings.episodes)):
            episode = recordings.episode(number)
            if episode.seed is None:
                raise SystemExit(f"{path}, episode {episode.name}: no seed, so nothing says what is in its frames")
            replayed = np.array(watch_exploration(task, episode.seed, episode.frames - 1, see)[0])
            if episode.state is None or np.abs(replayed[:, :5] - episode.state).max() > REPLAYED:
                raise SystemExit(f"{path}, episode {episode.name}: its seed now gives another episode than was "
                                 "recorded; collect the data again")
            states.append(replayed)
            (camera,) = recordings.spec.cameras.cameras
            frames.append(recordings.frames(number, camera.name, range(episode.frames)))
    return np.concatenate(frames), np.concatenate(states)


def spoilt(frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Frames `[B, 3, H, W]` in [0, 1] as a codec or another camera might show them: blurred, noisy, lighter, darker."""
    count = len(frames)
    share = torch.rand(count, 1, 1, 1, generator=generator)
    soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mixed = torch.lerp(frames, soft, share * (torch.rand(count, 1, 1, 1, generator=generator) < 0.5))
    gain = 1 + 0.06 * torch.randn(count, 3, 1, 1, generator=generator)
    noise = torch.randn(NOISES, *frames.shape[1:], generator=generator)
    noise = noise[torch.randint(NOISES, (count,), generator=generator)]
    noise *= 0.03 * torch.rand(count, 1, 1, 1, generator=generator)
    return (mixed * gain + noise).clamp(0.0, 1.0)


def train(frames: np.ndarray, states: np.ndarray, *, steps: int, batch: int, rate: float) -> torch.nn.Module:
    """The trained network."""
    torch.manual_seed(0)
    net, rng, generator = network(), np.random.default_rng(0), torch.Generator().manual_seed(0)
    wanted = torch.from_numpy(encode(states)).float()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    began = time.monotonic()
    for step in range(steps):
        chosen = np.sort(rng.integers(len(frames), size=batch))
        seen = torch.from_numpy(frames[chosen]).permute(0, 3, 1, 2).float() / 255.0
        loss = torch.nn.functional.smooth_l1_loss(net(spoilt(seen, generator)), wanted[chosen], beta=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step} of {steps}, loss {loss.item():.4f}, {time.monotonic() - began:.0f} s", flush=True)
    return net.eval()


def errors(net: torch.nn.Module, frames: np.ndarray, states: np.ndarray) -> dict[str, list[float]]:
    """Median, 90% and 99% quantile of every quantity's error."""
    said, truth = decode(run(net, frames)), values_of(states)
    found = make_task(TASK, render=False).state.errors(said, truth)
    return {name: [round(float(np.quantile(error, q)), 3) for q in (0.5, 0.9, 0.99)] for name, error in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--held-out", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=2e-3)
    told = parser.parse_args()
    net = train(*labelled(told.train), steps=told.steps, batch=told.batch, rate=told.rate)
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, told.out)
    net.load_state_dict({name: value.half().float() for name, value in net.state_dict().items()})
    print(json.dumps({"sha256": hashlib.sha256(told.out.read_bytes()).hexdigest(),
                      "held_out_median_90_99": errors(net, *labelled(told.held_out))}, indent=1))


if __name__ == "__main__":
    main()
