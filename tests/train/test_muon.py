"""Muon: what it does to a matrix, and to weights."""

from __future__ import annotations

import torch

from wcsim.train.muon import Muon, orthogonalise


def test_muon_orthogonalises():
    stack = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    for matrices in (stack, stack.mT):
        singular = torch.linalg.svdvals(orthogonalise(matrices, iterations=10))
        assert ((singular > 0.6) & (singular < 1.3)).all()
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    weight.grad = torch.ones(4, 6)
    optimizer.step()
    assert (weight < 0).all()
