"""Global random generators for third-party code: seeded while it runs, and afterwards as they were.

Libraries draw from the global generators of torch, numpy and Python.  `seeded` makes those follow from numbers, and
`lane_draws` makes torch draw every row of a batch as its lane would alone.  Easy to get wrong: seeding torch's CPU
generator by `torch.manual_seed` also seeds every GPU's, even one that is first used later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from wcsim.agents.policies import LanePolicy, Observation, Observations, PerLane, Policy, masked
from wcsim.estimate import Episode

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from wcsim.agents.reports import ActReport


def word_of(*numbers: int) -> int:
    """A seed that follows from `numbers`, each 0 or more."""
    return int(np.random.default_rng(list(numbers)).integers(2**63))


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within, the global generators follow from `numbers` (each 0 or more); afterwards they are as before."""
    import torch

    word = word_of(*numbers)
    # The old generator is what third-party code draws from.
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(word)
        if devices:
            torch.cuda.manual_seed_all(word)
        np.random.seed(word % 2**32)
        random.seed(word)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


@contextmanager
def seeded_lanes(seed: int, lanes: Sequence[tuple[int, int]]) -> Iterator[None]:
    """`seeded` for code that serves several lanes in one call, each by its episode's number and its step.

    What torch draws for a batch, a row or as many rows for each lane, it draws as for each lane alone (`lane_draws`);
    any other draw follows from all lanes together.
    """
    with ExitStack() as stack:
        stack.enter_context(seeded(seed, *(number for lane in lanes for number in lane)))
        if len(lanes) > 1:
            stack.enter_context(lane_draws([word_of(seed, *lane) for lane in lanes]))
        yield


def lane_draws(words: Sequence[int]) -> AbstractContextManager[Any]:
    """Within, torch draws the rows of a batch from a generator per lane, each seeded by its word.

    It holds for any operation that draws and whose first axis is a multiple of the number of lanes; one that names a
    generator of its own, or draws another shape, draws as ever.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Lanes(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # torch's
            self.states: list[Any] = [{}] * len(words)

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            given = kwargs or {}
            rows = rows_drawn(func, args, given)
            if rows is None or rows % len(words):
                return func(*args, **given)
            drawn = []
            for lane in range(len(words)):
                first = lane * rows // len(words)
                part = rows_taken(args, rows, first, first + rows // len(words))
                drawn.append(self.draw(lane, partial(func, *part, **given)))
            # An operation in place has drawn into the rows of its own tensor.
            return args[0] if func._schema.is_mutable else joined(drawn)

        def draw(self, lane: int, act: Callable[[], Any]) -> Any:
            """What an operation draws with a lane's generators, which move on."""
            generators = generators_in_use()
            before = [generator.get_state() for generator in generators]
            for number, generator in enumerate(generators):
                if number in self.states[lane]:
                    generator.set_state(self.states[lane][number])
                else:
                    generator.manual_seed(words[lane])
            drawn = act()
            self.states[lane] = {number: generator.get_state() for number, generator in enumerate(generators)}
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)
            return drawn

    return Lanes()


def generators_in_use() -> list[Any]:
    """Torch's global generators: the CPU's, and those of GPUs where they are used."""
    import torch

    return [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]


def rows_drawn(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """The length of the first axis that an operation draws; None where it does not draw from a global generator."""
    import torch

    if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
        return None
    shapes = [tuple(value.shape) if isinstance(value, torch.Tensor) else value for value in args
              if isinstance(value, torch.Tensor | list | tuple)]
    return int(shapes[0][0]) if shapes and len(shapes[0]) else None


def rows_taken(args: tuple[Any, ...], rows: int, first: int, last: int) -> tuple[Any, ...]:
    """The arguments of an operation that draws some of the rows alone: tensors cut, sizes shortened."""
    import torch

    def taken(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value[first:last] if value.ndim and len(value) == rows else value
        if isinstance(value, list | tuple) and len(value) and value[0] == rows:
            return [last - first, *value[1:]]
        return value

    return tuple(taken(value) for value in args)


def joined(parts: Sequence[Any]) -> Any:
    """Tensors, or tuples of tensors, end to end."""
    import torch

    return tuple(map(torch.cat, zip(*parts, strict=True))) if isinstance(parts[0], tuple) else torch.cat(list(parts))


class SeededLane:
    """A third-party `LanePolicy` whose draws follow from `seed`, the number of its episode and its step."""

    def __init__(self, policy: LanePolicy, *, seed: int = 0) -> None:
        self.policy, self._seed, self._number, self._step = policy, seed, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def reset(self, episode: Episode) -> None:
        """See `LanePolicy`."""
        self._number, self._step = episode.number, 0
        with seeded(self._seed, self._number, 0):
            self.policy.reset(episode)

    def act(self, observation: Observation, steps_left: int | None = None) -> np.ndarray:
        """See `LanePolicy`."""
        self._step += 1
        with seeded(self._seed, self._number, self._step):
            return self.policy.act(observation, steps_left)


def seeded_policy(policy: Policy, num_lanes: int, *, seed: int = 0) -> Policy:
    """A third-party policy whose draws are its own: lane by lane where it has a policy per lane."""
    if isinstance(policy, PerLane):
        return PerLane([SeededLane(lane, seed=seed) for lane in policy.lanes])
    return SeededPolicy(policy, num_lanes, seed=seed)


class SeededPolicy:
    """A third-party `Policy` whose draws follow from `seed`, the numbers of its lanes' episodes and their steps."""

    def __init__(self, policy: Policy, num_lanes: int, *, seed: int = 0) -> None:
        self.policy, self._seed = policy, seed
        self._numbers, self._steps = [0] * num_lanes, [0] * num_lanes

    @property
    def reports(self) -> Sequence[ActReport | None]:
        """What it says of its last `act`."""
        return getattr(self.policy, "reports", None) or [None] * len(self._steps)

    def reset(self, mask: np.ndarray, episodes: Sequence[Episode]) -> None:
        """See `Policy`."""
        for lane in masked(mask, episodes, len(self._steps)):
            self._numbers[lane], self._steps[lane] = episodes[lane].number, 0
        with self._draws():
            self.policy.reset(mask, episodes)

    def act(self, observations: Observations, steps_left: int | None = None) -> np.ndarray:
        """See `Policy`."""
        self._steps = [step + 1 for step in self._steps]
        with self._draws():
            return self.policy.act(observations, steps_left)

    def _draws(self) -> AbstractContextManager[None]:
        return seeded_lanes(self._seed, list(zip(self._numbers, self._steps, strict=True)))
