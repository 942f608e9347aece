"""The cost of a pass against torch's own count, and against what is known of the 2B model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wcsim.backbones.cosmos2.cost import pass_cost
from wcsim.backbones.cosmos2.releases import PREDICT_2B
from wcsim.backbones.cosmos2.tiny import tiny_cosmos


@torch.no_grad()
def test_equals_what_torch_counts():
    model, _ = tiny_cosmos()
    given = {"actions_NTF": None, "known_NT": None, "text_NSE": torch.zeros(1, 7, 32), "clean_T": torch.zeros(4)}
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 16, 4, 12, 12), sigma_NT=torch.ones(1, 4), **given)
    cost = pass_cost(dict(model.config), (4, 12, 12), 7)
    counted = counter.get_total_flops()
    # The last modulation alone is left out, and attention, where this torch does not count it on the CPU.
    attention = 3 * 2 * 2 * 144 * (144 + 7) * 32
    total = cost.total(blocks=3, passes=1)
    assert any(abs(total - seen) / total < 0.01 for seen in (counted, counted + attention))


def test_the_2b_robot_model():
    cost = pass_cost(PREDICT_2B, (4, 32, 40), 512)
    assert cost.total(28, 1) == pytest.approx(4.9e12, rel=0.03)
    assert cost.block * 28 + cost.ends == pytest.approx(4.75e12, rel=0.02)
