"""Diffusers' own `Cosmos2_5_PredictBasePipeline` on given parts, without what it asks for and never uses here.

Its module names two classes of `transformers` (in annotations), and reads an image and resizes a mask with torchvision.
Where those packages are missing, the names are stood in for; every class that computes anything is diffusers' own.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import CosmosTransformer3DModel, UniPCMultistepScheduler
from diffusers.models.transformers import transformer_cosmos

from wcsim.backbones.cosmos2.transformer import OWN_ARGUMENTS, ActionCosmosTransformer
from wcsim.world.codec import ClipCodec


def _nearest(mask: torch.Tensor, size: list[int], interpolation: str) -> torch.Tensor:
    return torch.nn.functional.interpolate(mask, size=size, mode=interpolation)


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 `[H, W, 3]` to float `[3, H, W]` in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255.0


@cache
def pipeline_class() -> Any:
    """The pipeline, imported past what is missing."""
    functional = SimpleNamespace(resize=_nearest, to_tensor=_to_tensor)
    modes = SimpleNamespace(NEAREST="nearest")
    transformer_cosmos.transforms = SimpleNamespace(functional=functional, InterpolationMode=modes)
    missing = find_spec("transformers") is None
    if missing:
        stand_in = ModuleType("transformers")
        stand_in.AutoTokenizer = stand_in.Qwen2_5_VLForConditionalGeneration = object
        sys.modules["transformers"] = stand_in
        loaders = import_module("diffusers.loaders")
        loaders.CosmosLoraLoaderMixin = import_module("diffusers.loaders.lora_pipeline").CosmosLoraLoaderMixin
    try:
        module = import_module("diffusers.pipelines.cosmos.pipeline_cosmos2_5_predict")
    finally:
        if missing:
            del sys.modules["transformers"]
    module.torchvision = SimpleNamespace(transforms=SimpleNamespace(functional=functional))
    return module.Cosmos2_5_PredictBasePipeline


class Guard:
    """A safety checker that lets everything pass; the pipeline insists on having one."""

    def to(self, device: Any) -> None:
        del device

    def check_text_safety(self, prompt: str) -> bool:
        return bool(prompt)


def stock_transformer(transformer: ActionCosmosTransformer) -> Any:
    """Diffusers' own class with the same weights, the action embedders left out."""
    config = {name: value for name, value in transformer.config.items()
              if not name.startswith("_") and name not in OWN_ARGUMENTS}
    stock = CosmosTransformer3DModel(**config).eval()
    left_over = stock.load_state_dict(transformer.state_dict(), strict=False)
    assert not left_over.missing_keys
    assert all(key.startswith("action_embedder") for key in left_over.unexpected_keys)
    return stock


def official_pipeline(
    transformer: ActionCosmosTransformer, codec: ClipCodec, *, text_encoder: Any = None, tokenizer: Any = None,
    **scheduler: Any,
) -> Any:
    """The pipeline around the weights of ours.  scheduler: its settings, those of the post-trained base by default."""
    karras = {"use_karras_sigmas": True, "sigma_max": 200.0, "sigma_min": 0.01}
    settings = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", **(scheduler or karras)}
    pipeline = pipeline_class()(
        text_encoder=text_encoder, tokenizer=tokenizer, transformer=stock_transformer(transformer), vae=codec.vae,
        scheduler=UniPCMultistepScheduler(**settings), safety_checker=Guard(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
