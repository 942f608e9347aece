"""One stage: its rate, its running mean, its checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wcsim.errors import NotFiniteError
from wcsim.train.machine import Machine
from wcsim.train.scalars import Scalars
from wcsim.train.schedule import Schedule
from wcsim.train.stage import Average, Stage


def test_the_rate_rises_stays_and_falls_to_zero():
    schedule = Schedule(steps=100, batch=1, learning_rate=2.0, warmup_steps=10, decay_fraction=0.5)
    assert schedule.rate(0, 0.0) == pytest.approx(0.2)
    assert schedule.rate(9, 0.09) == 2.0
    assert schedule.rate(50, 0.5) == 2.0
    assert schedule.rate(75, 0.75) == pytest.approx(1.0)
    assert schedule.rate(100, 1.0) == 0.0


def test_the_running_mean_is_the_closed_form():
    module = torch.nn.Linear(1, 1, bias=False)
    average = Average(module, 0.5)
    start = module.weight.item()
    expected = start
    for step, value in enumerate((1.0, 2.0, 3.0)):
        torch.nn.init.constant_(module.weight, value)
        average.update(step)
        kept = min(0.5, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
    with average.in_place():
        assert module.weight.item() == pytest.approx(expected)
    assert module.weight.item() == 3.0


class Fit(torch.nn.Module):
    """Learns a number."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))

    def forward(self, target: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.number - target).square().mean()}


def stage(folder, **changes):
    settings = {"steps": 40, "batch": 1, "learning_rate": 0.2, "warmup_steps": 1, "save_every": 10, **changes}
    return Stage("fit", folder, Schedule(**settings), Machine(), Scalars(folder))


def fit(one, learner, noise=1.0):
    one.run(learner, [torch.optim.SGD(learner.parameters(), lr=0.0)],
            lambda rng, generator, done: {"target": torch.tensor(3.0 + noise * rng.standard_normal(4))}, dict,
            lambda: None)


def test_batches_that_accumulate_are_one_of_their_mean(tmp_path):
    learner = Fit()
    seen = []
    one = stage(tmp_path, steps=1, accumulate=4, decay_fraction=1.0)
    one.run(learner, [torch.optim.SGD(learner.parameters(), lr=0.0)],
            lambda rng, generator, done: {"target": seen.append(rng.random()) or torch.tensor(float(len(seen)))}, dict,
            lambda: None)
    assert learner.number.item() == pytest.approx(0.2 * 2 * 2.5 / 5, rel=1e-5)  # the gradient is clipped to norm 1


def test_a_loss_that_is_not_finite_stops_with_what_to_do(tmp_path):
    with pytest.raises(NotFiniteError, match="the loss is nan at step 1; lower fit.schedule.learning_rate"):
        fit(stage(tmp_path), Fit(), noise=np.nan)


def test_rows_beyond_a_checkpoint_are_forgotten(tmp_path):
    scalars = Scalars(tmp_path)
    for step in (10, 20, 30):
        scalars.add("fit", step, 1.0, {"loss": 0.5}, {})
    scalars.add("other", 40, 1.0, {"loss": 0.5}, {})
    scalars.forget("fit", 20)
    assert [(row["stage"], row["step"]) for row in scalars.rows()] == [("fit", 10), ("fit", 20), ("other", 40)]
