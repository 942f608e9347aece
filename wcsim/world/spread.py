"""One world on several devices of this machine: its lanes are shared out, and what comes back is the same.

Lanes are independent, so a share of them on another device of the same kind is what it would have been beside the
others.  `cpu,cpu` deals lanes out to two cores: small products use one core badly and two hardly better.  Easy to get
wrong: torch's `no_grad`, its current GPU and its number of threads belong to a thread, so each share asks for all.

Shape suffixes as in `wcsim.world.world`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from wcsim.types import Fidelity, Trace, WorldState
from wcsim.world.checks import check_device
from wcsim.world.traces import join_traces
from wcsim.world.world import World

Part = TypeVar("Part")


class SpreadWorld(World):
    """A world whose lanes are imagined, and whose frames are decoded, by copies on several devices.

    All else, and a single lane, is the first copy's, on whose device every result lies.
    """

    def __init__(self, worlds: Sequence[World]) -> None:
        """worlds: copies of one, a device each."""
        self.__dict__.update(worlds[0].__dict__)
        self._worlds = tuple(worlds)
        self._threads = ThreadPoolExecutor(len(worlds), thread_name_prefix="wcsim-device")

    def advance(self, state: WorldState, actions: np.ndarray, fidelity: Fidelity) -> tuple[WorldState, Tensor, Trace]:
        """See `World.advance`."""
        lanes = self._shares(state.num_lanes)
        if len(lanes) < 2 or len(actions) != state.num_lanes:
            return self._worlds[0].advance(state, actions, fidelity)

        def imagine(world: World, share: slice) -> tuple[WorldState, Tensor, Trace]:
            after, latents, trace = world.advance(moved(state, share, world.device), actions[share], fidelity)
            return moved(after, slice(None), self.device), latents.to(self.device), trace

        parts = self._map(imagine, lanes)
        return (state.join([after for after, _, _ in parts]), torch.cat([new for _, new, _ in parts]),
                join_traces([trace for _, _, trace in parts]))

    def decode_guarded(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """See `World.decode_guarded`."""
        lanes = self._shares(len(latents)) if latents.ndim > 4 else []
        if len(lanes) < 2:
            return self._worlds[0].decode_guarded(latents)
        parts = self._map(lambda world, share: world.decode_guarded(latents[share].to(world.device)), lanes)
        return np.concatenate([frames for frames, _ in parts]), np.concatenate([changed for _, changed in parts])

    def _shares(self, lanes: int) -> list[slice]:
        """Lanes by device, as even as can be; none is empty."""
        sizes = torch.arange(lanes).tensor_split(len(self._worlds))
        return [slice(int(part[0]), int(part[-1]) + 1) for part in sizes if len(part)]

    def _map(self, work: Callable[[World, slice], Part], shares: Sequence[slice]) -> list[Part]:
        """What each device makes of its share, at the same time; shares on the CPU have its threads in equal parts."""
        threads = torch.get_num_threads()
        each = max(1, threads // len(shares))

        def run(world: World, share: slice) -> Part:
            if world.device.type == "cpu" and torch.get_num_threads() != each:
                torch.set_num_threads(each)
            here = torch.cuda.device(world.device) if world.device.type == "cuda" else nullcontext()
            with torch.no_grad(), here:
                return work(world, share)

        try:
            return list(self._threads.map(run, self._worlds, shares))
        finally:
            torch.set_num_threads(threads)  # a part of it is set for all threads alike


def moved(state: WorldState, lanes: slice, device: torch.device) -> WorldState:
    """Some lanes of a state, on a device."""
    return replace(state, **{name: value[lanes].to(device) for name, value in state.tensors().items()})


def load_spread(name: str | Path, devices: Sequence[str], **options: Any) -> World:
    """The world on all of these, as cuda:0 and cuda:1; on one alone it is `World.load`'s.

    A device that is named again shares the weights that lie there, unless they are compiled.  options: of `World.load`.
    ConfigError for a device that is not here, before anything is read.
    """
    for device in devices:
        check_device(device)
    worlds: list[World] = []
    for number, device in enumerate(devices):
        there = None if options.get("compiled") or device not in devices[:number] else worlds[devices.index(device)]
        worlds.append(World.load(name, device=device, **options) if there is None else copied(there))
    return worlds[0] if len(worlds) == 1 else SpreadWorld(worlds)


def copied(world: World) -> World:
    """The world again, with whatever it changes while it works, and the same weights and guardrail."""
    parts = (world.transformer, world.codec, *(() if world.state_model is None else (world.state_model,)))
    shared: list[Any] = [world._guardrail]
    for part in parts:
        for module in part.modules():
            shared += [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return deepcopy(world, {id(one): one for one in shared})
