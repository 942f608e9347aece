"""Our MPPI against pytorch-mppi on a point mass: the same candidates give the same plan, and both arrive."""

import numpy as np
import pytest
import torch
from pytorch_mppi import MPPI

from wcsim.agents.mppi import mppi
from wcsim.timing.budget import Budget

TICKS, COUNT, DT = 12, 256, 0.2
STD = 1.5
GOAL = torch.tensor([1.0, -0.5])


def dynamics(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """A point of mass 1: position and velocity `[N, 4]`, pushed by a force `[N, 2]`."""
    velocity = state[:, 2:] + DT * action
    return torch.cat([state[:, :2] + DT * velocity, velocity], dim=1)


def running_cost(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    return (state[:, :2] - GOAL).square().sum(1) + 0.1 * state[:, 2:].square().sum(1) + 0.01 * action.square().sum(1)


def cost_from(state: torch.Tensor):
    """The cost of action sequences `[N, T, 2]` from one state, as our planners ask for it."""

    def cost(actions: np.ndarray) -> np.ndarray:
        forces = torch.from_numpy(actions)
        states, total = state.expand(len(actions), -1), torch.zeros(len(actions), dtype=torch.float64)
        for tick in range(forces.shape[1]):
            states = dynamics(states, forces[:, tick])
            total = total + running_cost(states, forces[:, tick])
        return total.numpy()

    return cost


def oracle(temperature: float) -> MPPI:
    return MPPI(
        dynamics, running_cost, nx=4, noise_sigma=STD**2 * torch.eye(2, dtype=torch.float64), num_samples=COUNT,
        horizon=TICKS, lambda_=temperature, U_init=torch.zeros(TICKS, 2, dtype=torch.float64),
        u_init=torch.zeros(2, dtype=torch.float64), u_min=torch.full((2,), -4.0, dtype=torch.float64),
        u_max=torch.full((2,), 4.0, dtype=torch.float64), sample_null_action=True,
    )


def plan(state: torch.Tensor, mean: np.ndarray, seed: int, proposals: np.ndarray | None = None):
    extra = {} if proposals is None else {"proposals": proposals}
    return mppi(
        cost_from(state), mean, np.full((TICKS, 2), STD), low=np.full(2, -4.0), high=np.full(2, 4.0), rounds=1,
        candidates=COUNT, budget=Budget(max_calls=10**6), rng=np.random.default_rng(seed), temperature=0.2, **extra,
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_same_candidates_give_the_same_mean(seed: int) -> None:
    state = torch.tensor([[0.2, 0.1, -0.5, 0.3]], dtype=torch.float64)
    torch.manual_seed(seed)
    first = oracle(1.0)
    first.command(state[0])
    # Theirs is an absolute temperature, ours a share of the costs' standard deviation.
    scale = 0.2 * float(first.cost_total.numpy().std())
    torch.manual_seed(seed)
    theirs = oracle(scale)
    theirs.command(state[0])
    drawn = theirs.perturbed_action.numpy()
    assert (drawn[0] == 0).all()
    ours = plan(state, np.zeros((TICKS, 2)), seed, drawn[1:])
    np.testing.assert_allclose(ours.mean, theirs.U.numpy(), atol=1e-9)


def drive(act, ticks: int = 30) -> float:
    """Summed cost of driving the point by `act(state, tick)`."""
    state, total = torch.zeros(1, 4, dtype=torch.float64), 0.0
    for tick in range(ticks):
        action = act(state, tick)
        total += float(running_cost(state, action))
        state = dynamics(state, action)
    return total


def test_in_closed_loop_ours_is_as_good() -> None:
    warm = np.zeros((TICKS, 2))

    def ours(state: torch.Tensor, tick: int) -> torch.Tensor:
        found = plan(state, warm, tick)
        warm[:-1], warm[-1] = found.mean[1:], 0.0
        return torch.from_numpy(found.actions[:1])

    torch.manual_seed(0)
    planner = oracle(0.5)
    theirs = drive(lambda state, _: planner.command(state[0]).unsqueeze(0))
    idle = drive(lambda state, _: torch.zeros(1, 2, dtype=torch.float64))
    assert drive(ours) < 1.1 * theirs < 0.5 * idle
