"""The smallest recipe that has every stage, for the recordings of `arm_recordings`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wcsim.config import override, validate
from wcsim.train.recipe import Recipe

SETTINGS: dict[str, Any] = {
    "world": "dot",
    "data": {"validation": 0.34, "codec_frames": 60},
    "codec": {
        "model": {"base_dim": 4, "dim_mult": [1, 1, 1], "z_dim": 4, "num_res_blocks": 1, "is_residual": True,
                  "temperal_downsample": [False, False], "in_channels": 12, "out_channels": 12, "patch_size": 2,
                  "scale_factor_temporal": 1, "scale_factor_spatial": 8},
        "schedule": {"steps": 4, "batch": 2, "learning_rate": 0.002, "save_every": 2}, "crop_px": 24,
        "decoder_fraction": 0.25},
    "state_model": {"schedule": {"steps": 4, "batch": 4, "learning_rate": 0.002, "save_every": 2}, "width": 16},
    "transformer": {
        "model": {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "mlp_ratio": 2.0,
                  "adaln_lora_dim": 4, "text_embed_dim": 8, "patch_size": [1, 2, 2], "max_size": [16, 12, 12],
                  "prediction": "sample", "frame_summary": True},
        "context_shares": [0.2, 0.4, 0.1, 0.3], "chunk_shares": [0.3, 0.15, 0.15, 0.4], "imagined_share": 1.0,
        "sparse_share": 0.5, "imagined_start": 0.5,
        "schedule": {"steps": 4, "batch": 2, "learning_rate": 0.001, "save_every": 2, "ema": 0.9, "accumulate": 2}},
    "judge": {"episodes": 2, "horizon": 8, "steps": [1, 2]},
}


def tiny_recipe(data: Path | str, *changes: str) -> Recipe:
    """The recipe on some recordings, with `a.b=value` changes."""
    return validate(Recipe, override(SETTINGS, [f"data.path={data}", *changes]))


class Silent:
    """A progress line that nobody sees."""

    def count(self, done: int, total: int) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""
