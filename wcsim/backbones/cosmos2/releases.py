"""The released Cosmos models that wcsim runs: where their weights are, what they are, and how large.

NVIDIA's weights are never shipped with wcsim.  A released model is named like its place on the Hugging Face Hub; once
`scripts/convert_cosmos.py` has made a world of it, that world is found by the same name.  Easy to get wrong: the robot
models are not in diffusers' layout, but the autoencoder beside them is taken from it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wcsim.backbones.cosmos2.dreamdojo import action_spec, slots_of
from wcsim.errors import CheckpointError
from wcsim.types import ActionSpec, WorldSpec

PREDICT_2B: dict[str, Any] = {
    "in_channels": 17, "out_channels": 16, "num_attention_heads": 16, "attention_head_dim": 128, "num_layers": 28,
    "mlp_ratio": 4.0, "text_embed_dim": 1024, "adaln_lora_dim": 256, "max_size": (128, 240, 240),
    "patch_size": (1, 2, 2), "rope_scale": (1.0, 3.0, 3.0), "concat_padding_mask": True,
    "use_crossattn_projection": True, "crossattn_proj_in_channels": 100_352, "encoder_hidden_states_channels": 1024,
}
"""Cosmos-Predict2.5-2B: 2,059,174,912 weights without action embedders (`action_features=0`)."""

PREDICT_14B: dict[str, Any] = {**PREDICT_2B, "num_attention_heads": 40, "num_layers": 36}
"""Cosmos-Predict2.5-14B: 14,368,047,104 weights."""

LICENCE = "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license"

BRIDGE = ActionSpec(
    low=(-0.125,) * 3 + (-0.5,) * 3 + (0.0,),
    high=(0.125,) * 3 + (0.5,) * 3 + (1.0,),
    names=("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"),
    units="m and rad in the gripper's frame one tick before; gripper 0 open to 1 closed",
    scale=(20.0,) * 6 + (1.0,),
    absolute=("gripper",),
)
"""The Bridge convention: how the end effector moves within a tick, and where the gripper is to be.  The model sees the
moves times 20.  The bounds are ours, for planners to search within; the model knows none."""

PREDICT_REPOSITORY, ROBOT = "nvidia/Cosmos-Predict2.5-2B", "robot/action-cond/"

BASE_REPOSITORIES = (PREDICT_REPOSITORY, "nvidia/Cosmos-Predict2.5-14B")
BASE_REVISION, BASE_PARTS = "diffusers/base/post-trained", ("transformer", "vae", "scheduler")
"""The base models in diffusers' layout: branch and subfolders.  The text encoder (16 GB) is for prompts alone."""

CONVENTIONS = {"bridge": BRIDGE}
"""Action conventions by name."""


@dataclass(frozen=True, slots=True)
class Release:
    """A released model.

    spec: the world that it becomes.  repository, revision: on the Hub.  weights: the file there, empty where there is
    no single one.  text, vae: repository, revision and place of the empty prompt's embedding and the autoencoder.  The
    revisions are branches, as in NVIDIA's own code: no published text pins these files to a commit.  What a branch was
    at the time of conversion is written into the world.  robot: whose joints' ranges, which lie beside its weights, the
    actions are normalised by; empty where they are not.
    """

    spec: WorldSpec
    repository: str
    weights: str
    revision: str = "main"
    text: tuple[str, str, str] = (PREDICT_REPOSITORY, "main", ROBOT + "cr1_empty_string_text_embeddings.pt")
    vae: tuple[str, str, str] = (PREDICT_REPOSITORY, BASE_REVISION, "vae")
    robot: str = ""

    @property
    def page(self) -> str:
        """Where the licence is accepted."""
        return f"https://huggingface.co/{self.repository}"

    def find(self, reference: str) -> Path:
        """The folder of the world made of it.  CheckpointError says how to get one that is not there."""
        folder = world_home() / self.spec.name
        if (folder / "world.json").is_file():
            return folder
        raise CheckpointError(
            f"world {reference!r} is not on this machine ({folder} holds no world.json). Its weights are in the "
            f"Hugging Face repository {self.repository}, which wcsim may not ship: accept their licence (NVIDIA Open "
            f"Model License, {LICENCE}) at {self.page}, then run: python scripts/convert_cosmos.py {reference} "
            "(docs/cosmos.md says more)"
        )


def _robot(name: str, task: str, size: tuple[int, int], fps: float, action: ActionSpec) -> WorldSpec:
    """What the robot models have in common: 12 actions to 3 latents behind 1, one noise level for all, and NVIDIA's own
    grid, levels and rounding."""
    return WorldSpec(
        name=name, task=task, frame_size=size, latent_shape=(16, size[0] // 8, size[1] // 8), fps=fps, action=action,
        max_context=1, max_chunk=12, flow_shift=5.0, context_sigma=-1.0, default_steps=35, frames_per_latent=4,
        carry="pixels", reads="frames", default_solver="unipc-nvidia", timesteps="whole", eight_bits="cut",
    )


def _dreamdojo(size: str, robot: str) -> Release:
    """DreamDojo for a robot; until its ranges are known (`robot`), a joint moves from -1 to 1."""
    unit = [1.0] * slots_of(robot.lower())[1]
    spec = _robot(f"dreamdojo-{size.lower()}-{robot.lower()}", "recordings", (480, 640), 10.0,
                  action_spec(robot.lower(), [-one for one in unit], unit))
    return Release(spec, repository="nvidia/DreamDojo", weights="", robot=robot.lower())


RELEASES = {
    "nvidia/Cosmos-Predict2.5-2B/robot/action-cond": Release(
        _robot("cosmos-2b-bridge", "recordings", (256, 320), 4.0, BRIDGE),
        repository=PREDICT_REPOSITORY,
        weights=ROBOT + "38c6c645-7d41-4560-8eeb-6f4ddc0e6574_ema_bf16.pt",
    ),
    **{f"nvidia/DreamDojo/{size}-{name}": _dreamdojo(size, name) for size in ("2B", "14B")
       for name in ("GR1", "G1", "YAM", "AgiBot")},
}
"""What `world:` in a configuration may name."""


def fitted(spec: WorldSpec, reads: Literal["frames", "chunk"]) -> WorldSpec:
    """The spec for weights of the other action form: there are two, and a file's name does not tell them apart."""
    return replace(spec, reads=reads)


def world_home() -> Path:
    """Where converted worlds are kept: `WCSIM_WORLDS`, or `wcsim/worlds` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("WCSIM_WORLDS") or cache / "wcsim" / "worlds")


