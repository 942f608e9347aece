"""Train a policy on demonstrations, try it in the truth, and write `OUTPUT/NAME.safetensors`.

    python scripts/collect_demonstrations.py configs/train_policy_bc.yaml
    python scripts/train_policy.py configs/train_policy_bc.yaml

What a step learns from follows from its number alone, so a training that was stopped and resumed ends in the weights
of one that was not.  `OUTPUT/NAME.json` says how it did: validation loss, and success and progress over trial episodes.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from policy_recipe import Learning, PolicyRecipe
from wcsim.agents.learned import ChunkNetwork, LearnedPolicy, PolicySettings, save_policy
from wcsim.agents.sights import Sight, sight_of
from wcsim.envs.tasks import Task, episode_of, make_task
from wcsim.rollout.engine import rollout
from wcsim.rollout.places import TruthPlace
from wcsim.rollout.sinks import Recorder, listen


@dataclass(frozen=True, slots=True)
class Shown:
    """poses: `[E, T+1, R+S]`.  wishes: `[E, T, A]`."""

    poses: np.ndarray
    wishes: np.ndarray

    @classmethod
    def load(cls, recipe: PolicyRecipe, split: str) -> Shown:
        """The episodes of one split that the recipe asks for."""
        spec = recipe.demonstrations
        count = -(-spec.splits[split].episodes // spec.shard_episodes)
        paths = [spec.folder / split / f"shard_{number:04d}.npz" for number in range(count)]
        if missing := [str(path) for path in paths if not path.exists()]:
            raise SystemExit(f"missing: {', '.join(missing)}; run scripts/collect_demonstrations.py first")
        shards = [np.load(path) for path in paths]
        return cls(*(np.concatenate([shard[key] for shard in shards]) for key in ("poses", "wishes")))

    def windows(self, learning: Learning, sight: Sight) -> tuple[np.ndarray, np.ndarray]:
        """Every tick with a whole chunk after it: poses `[n, k, R+S]` and chunks `[n, H A]`.  Before an
        episode's beginning its first pose is repeated, as the policy does."""
        ticks = np.arange(self.wishes.shape[1] - learning.horizon + 1)
        past = np.maximum(ticks[:, None] + np.arange(1 - learning.history, 1), 0)
        ahead = ticks[:, None] + np.arange(learning.horizon)
        offsets = self.wishes[:, ahead]
        if sight.anchored:
            offsets = offsets - self.poses[:, ticks, None, : offsets.shape[-1]]
        poses = self.poses[:, past]
        return poses.reshape(-1, *poses.shape[2:]), offsets.reshape(len(poses) * len(ticks), -1)


def features_of(poses: np.ndarray, task: Task, sight: Sight) -> Tensor:
    """`[B, F]` of pose histories `[B, k, R+S]`."""
    low, high = np.asarray(task.action.low), np.asarray(task.action.high)
    robot, scene = poses[..., : sight.robot], poses[..., sight.robot :]
    return torch.from_numpy(sight.read(robot, scene, low, high)).flatten(1)


def loss_of(
    network: ChunkNetwork, poses: np.ndarray, chunks: Tensor, task: Task, rng: np.random.Generator, pose_noise: float
) -> Tensor:
    """The loss of a batch whose places are `pose_noise` off, and all else by what goes with that."""
    sight = sight_of(network.settings.task)
    off = rng.normal(0.0, pose_noise, poses.shape) * sight.shaken
    noise = torch.from_numpy(rng.standard_normal(chunks.shape).astype(np.float32))
    time_ = torch.from_numpy(rng.uniform(size=len(chunks)).astype(np.float32))
    scaled = (chunks - network.centre) / network.spread
    return network.loss(features_of(poses + off, task, sight), scaled, noise, time_)


def new_network(recipe: PolicyRecipe, task: Task, chunks: Tensor) -> ChunkNetwork:
    """A network of random weights that knows the spread of its chunks."""
    learning = recipe.learning
    torch.manual_seed(learning.schedule.seed)
    network = ChunkNetwork(PolicySettings(
        learning.kind, learning.history, learning.horizon, learning.width, learning.depth, task.action.low,
        task.action.high, learning.draws, recipe.task))
    network.centre.copy_(chunks.mean(0))
    least = (torch.tensor(task.action.high) - torch.tensor(task.action.low)) / 512
    network.spread.copy_(torch.maximum(chunks.std(0), least.repeat(learning.horizon)))
    return network


def train(recipe: PolicyRecipe, task: Task) -> tuple[ChunkNetwork, float]:
    """The trained network and its validation loss; goes on from `OUTPUT/NAME.pt`."""
    learning, schedule = recipe.learning, recipe.learning.schedule
    (poses, offsets), (seen, held_out) = (Shown.load(recipe, split).windows(learning, sight_of(recipe.task))
                                          for split in ("train", "validation"))
    chunks, held_out_chunks = (torch.from_numpy(part.astype(np.float32)) for part in (offsets, held_out))
    network = new_network(recipe, task, chunks)
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=1e-3)
    checkpoint, first = recipe.output / f"{recipe.name}.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]

    @torch.no_grad()
    def validate() -> float:
        rng = np.random.default_rng([schedule.seed, 0])
        return float(loss_of(network, seen, held_out_chunks, task, rng, 0.0))

    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, unit="step")
    for step in progress:
        rng = np.random.default_rng([schedule.seed, 1, step])
        chosen = rng.integers(0, len(poses), schedule.batch)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, step / schedule.steps)
        loss = loss_of(network, poses[chosen], chunks[chosen], task, rng, learning.pose_noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            partial = checkpoint.with_suffix(".tmp")  # a kill leaves the old checkpoint or the new one
            torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
                       partial)
            partial.rename(checkpoint)
            progress.write(f"step {step + 1} loss {loss.item():.4f} validation {validate():.4f}")
    return network, validate()


def try_out(recipe: PolicyRecipe, task: Task, network: ChunkNetwork) -> dict[str, float]:
    """How the policy does in the truth, seeing what the estimator sees."""
    trial = recipe.trial
    seeds = range(trial.first_seed, trial.first_seed + trial.episodes)
    starts = [task.start(seed) for seed in seeds]
    episodes = [episode_of(task, start, number=number, seed=seed)
                for number, (start, seed) in enumerate(zip(starts, seeds, strict=True))]
    policy = LearnedPolicy(network, task.action, len(starts), execute=trial.execute)
    place, recorder = TruthPlace(task), Recorder(frames=False)
    try:
        listen(rollout(task, {"truth": place}, policy, episodes, starts, acts_in="truth", max_steps=trial.max_steps),
               [recorder])
    finally:
        place.close()
    last = [record.places["truth"].scored[-1] for record in recorder.episodes]
    return {"episodes": len(last), "success_rate": float(np.mean([bool(estimate.success[0]) for estimate in last])),
            "final_progress": float(np.mean([float(estimate.progress[0]) for estimate in last]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="a policy's training recipe (YAML)")
    recipe = PolicyRecipe.load(parser.parse_args().recipe)
    recipe.output.mkdir(parents=True, exist_ok=True)
    task = make_task(recipe.task, **recipe.task_options)
    began = time.monotonic()
    network, validation = train(recipe, task)
    path = recipe.output / f"{recipe.name}.safetensors"
    save_policy(path, network)
    report = {"steps": recipe.learning.schedule.steps, "validation_loss": validation, **try_out(recipe, task, network)}
    (recipe.output / f"{recipe.name}.json").write_text(json.dumps(report, indent=2) + "\n")
    weights = sum(value.numel() for value in network.parameters())
    print(f"exported {path}: {weights:,} weights, {report} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
