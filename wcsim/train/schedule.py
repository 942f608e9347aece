"""How long a stage of a training is, and at which rate it learns."""

from __future__ import annotations

from pydantic import Field

from wcsim.config import StrictConfig


class Schedule(StrictConfig):
    """Linear warm-up, constant rate, linear decay to zero."""

    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(100, ge=0)
    decay_fraction: float = Field(0.5, gt=0, le=1)
    """Share of the stage, at its end, over which the rate falls to zero."""
    accumulate: int = Field(1, gt=0)
    """Batches whose gradients are averaged for one step."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the running mean of the weights, which is exported; 0 exports the weights themselves."""
    save_every: int = Field(250, gt=0)
    """Steps between checkpoints."""
    seed: int = Field(0, ge=0)

    def rate(self, step: int, done: float) -> float:
        """Learning rate at a step, where a share `done` in [0, 1] of the stage is over."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * min(warm, max(0.0, min(1.0, (1.0 - done) / self.decay_fraction)))
