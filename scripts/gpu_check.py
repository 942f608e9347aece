"""Everything to run on a machine with a GPU, in order, into one JSON.

    python scripts/gpu_check.py --out runs/gpu-check
    python scripts/gpu_check.py --world FOLDER               # also a converted world (scripts/convert_cosmos.py)
    python scripts/gpu_check.py --device cpu --quick         # a rehearsal without a GPU

A check that fails is recorded with its reason, and the next one runs.  docs/gpu.md says what each should give.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import diffusers
import numpy as np
import torch
from rich.console import Console

from wcsim.cache import NoCache, parse_cache, preset
from wcsim.config import override, read_yaml, validate
from wcsim.experiments.bench.forward import bench_forward
from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig
from wcsim.types import Fidelity, Trace, WorldState
from wcsim.world.compiled import compile_world
from wcsim.world.verify import verify_world
from wcsim.world.world import World

STEPS = 35
CONTEXT_REFRESH = 0.3
Result = dict[str, Any]


class Checks:
    """The checks, one method each, in the order in which they run."""

    def __init__(self, device: str, quick: bool, world: Path | None, out: Path) -> None:
        self.device, self.quick, self.folder, self.out = device, quick, world, out
        self.steps = 6 if quick else STEPS

    def machine(self) -> Result:
        """What this runs on."""
        found: Result = {"python": platform.python_version(), "torch": torch.__version__, "device": self.device,
                         "diffusers": diffusers.__version__}
        if self.device.startswith("cuda"):
            properties = torch.cuda.get_device_properties(self.device)
            found |= {"gpu": properties.name, "memory_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}
        return found

    def converted_world(self) -> Result:
        """Hashes, shapes, finite, moved by actions with the cache and without."""
        if self.folder is None:
            return {"skipped": "no --world given"}
        cache = preset("wcsim").build()
        verdict = verify_world(self.folder, cache, NoCache(), steps=self.steps, device=self.device)
        return asdict(verdict)

    def threshold_zero_is_no_cache(self) -> Result:
        """Bit for bit, as on the CPU."""
        world = self._world()
        state, actions = self._start(4, world)
        plain = world.advance(state, actions, Fidelity(self.steps, NoCache()))[1]
        zero = parse_cache({"preset": "wcsim", "threshold": 0.0}).build()
        return {"equal": bool(torch.equal(plain, world.advance(state, actions, Fidelity(self.steps, zero))[1]))}

    def device_against_cpu(self) -> Result:
        """The same rollout here and there: largest difference of the latents, and decisions that differ."""
        (here, trace), (there, reference) = self._roll(self.device), self._roll("cpu")
        return {"largest_difference": float((here.cpu() - there).abs().max()),
                "decisions_that_differ": int((trace.hit != reference.hit).sum()), "decisions": trace.hit.size}

    def bfloat16_against_float32(self) -> Result:
        """The same, in the other precision."""
        (full, trace), (half, other) = self._roll(self.device), self._roll(self.device, torch.bfloat16)
        relative = float((half - full).norm() / full.norm())
        return {"relative_difference": relative, "decisions_that_differ": int((trace.hit != other.hit).sum())}

    def batch_against_singles(self) -> Result:
        """Lanes alone and together."""
        world = self._world()
        state, actions = self._start(4, world)
        fidelity = Fidelity(self.steps, preset("wcsim").build())
        together, trace = world.advance(state, actions, fidelity)[1:]
        alone = [world.advance(state.select([lane]), actions[lane : lane + 1], fidelity)[1:] for lane in range(4)]
        differences = [float((together[lane] - one[0]).abs().max()) for lane, (one, _) in enumerate(alone)]
        differ = [int((trace.hit[..., lane] != one.hit[..., 0]).sum()) for lane, (_, one) in enumerate(alone)]
        return {"largest_difference": max(differences), "decisions_that_differ": sum(differ)}

    def host_synchronisations(self) -> Result:
        """Waits for the device within one cached rollout; the policy's share is one per denoise step."""
        if not self.device.startswith("cuda"):
            return {"skipped": "only on a GPU"}
        world = self._world()
        self._imagine(world)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._imagine(world)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return {"synchronisations": len(caught), "denoise_steps": self.steps}

    def memory_estimate(self) -> Result:
        """What 8 lanes took against the estimate, and whether lots of lanes give what all give together."""
        world = self._world()
        state, actions = self._start(8, world)
        fidelity = Fidelity(self.steps, preset("wcsim").build())
        found: Result = {"predicted_gb": world.memory(fidelity).total(8) / 1e9}
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        together = world.advance(state, actions, fidelity)[1]
        if self.device.startswith("cuda"):
            found["taken_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
        world.memory_limit = world.memory(fidelity).total(3)
        lots = world.advance(state, actions, fidelity)[1]
        return found | {"largest_difference": float((lots - together).abs().max())}

    def bench_batch_1(self) -> Result:
        """See `wcsim bench forward`."""
        return self._bench(1)

    def bench_batch_8(self) -> Result:
        """The same with 8 lanes."""
        return self._bench(8)

    def closed_loop(self) -> Result:
        """The shipped world under the planner."""
        changes = [f"device={self.device}", "episodes=1", f"max_steps={2 if self.quick else 16}", "threads=null",
                   *(["policy.candidates=6", "policy.elites=2", "policy.rounds=1"] if self.quick else [])]
        config = validate(ClosedLoopConfig, override(read_yaml("pusht_mpc"), changes))
        run = ClosedLoop(config).run(self.out / "closed-loop")
        return dict(json.loads((run.path / "summary.json").read_text()))

    def compiled_world(self) -> Result:
        """`torch.compile` of what every step runs, the gate outside: speed-up and difference."""
        if self.quick:
            return {"skipped": "not in a rehearsal"}
        world = self._world()
        plain, _ = self._imagine(world)
        seconds = self._seconds(lambda: self._imagine(world))
        compile_world(world.parts)
        compiled, _ = self._imagine(world)  # the first call compiles
        faster = self._seconds(lambda: self._imagine(world))
        return {"speedup": seconds / faster, "largest_difference": float((compiled - plain).abs().max())}

    def cached_context(self) -> Result:
        """Uncached single frames of 32 lanes, the context read in every pass or cached: speed-up and distance."""
        world = self._world()
        frames = np.random.default_rng(0).integers(0, 256, (32, 4, *world.spec.frame_size, 3), dtype=np.uint8)
        state = world.init(frames, np.zeros((32, 3, world.spec.action.dim)), np.arange(32))
        exact, actions = Fidelity(self.steps, NoCache(), chunk=1), np.full((32, 1, 2), 256.0)
        read, cached = (partial(world.advance, state, actions, replace(exact, context_refresh=refresh))
                      for refresh in (0.0, CONTEXT_REFRESH))
        apart = (cached()[1] - read()[1]).norm() / read()[1].norm()
        return {"speedup": self._seconds(read) / self._seconds(cached), "relative_difference": float(apart)}

    def converted_loop(self) -> Result:
        """Two chunks of the converted world, uncached and cached, in two ways and in bfloat16: seconds, differences."""
        if self.folder is None:
            return {"skipped": "no --world given"}
        return converted_loop(self.folder, self.device, self.steps, self._seconds)

    def _bench(self, lanes: int) -> Result:
        dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
        return bench_forward("quick" if self.quick else "2b", out=self.out / f"forward-{lanes}", lanes=lanes,
                             device=self.device, dtype=dtype)

    def _world(self, device: str | None = None, dtype: torch.dtype = torch.float32) -> World:
        return World.load("pusht-96", device=device or self.device, dtype=dtype)

    def _start(self, lanes: int, world: World) -> tuple[WorldState, np.ndarray]:
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (lanes, 1, *world.spec.frame_size, 3), dtype=np.uint8)
        actions = rng.uniform(world.spec.action.low, world.spec.action.high, (lanes, 2, world.spec.action.dim))
        return world.init(frames, np.zeros((lanes, 0, world.spec.action.dim)), np.arange(lanes)), actions

    def _roll(self, device: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, Trace]:
        return self._imagine(self._world(device, dtype))

    def _imagine(self, world: World) -> tuple[torch.Tensor, Trace]:
        state, actions = self._start(2, world)
        return world.advance(state, actions, Fidelity(self.steps, preset("wcsim").build()))[1:]

    def _seconds(self, act: Callable[[], Any]) -> float:
        began = perf_counter()
        act()
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return perf_counter() - began


def converted_loop(folder: Path, device: str, steps: int, seconds: Callable[[Callable[[], Any]], float]) -> Result:
    """Seconds of two chunks by setting, and how far the last frames are from the uncached ones, in levels of 255."""
    cache = preset("wcsim").build()
    settings = {"uncached": (NoCache(), 0.0, torch.float32),
                "context_cached": (NoCache(), CONTEXT_REFRESH, torch.float32),
                "cached": (cache, 0.0, torch.float32), "cached_bfloat16": (cache, 0.0, torch.bfloat16)}
    found: Result = {}
    reference: np.ndarray | None = None
    for name, (policy, refresh, dtype) in settings.items():
        world = World.load(folder, device=device, dtype=dtype)
        spec, rng = world.spec, np.random.default_rng(0)
        frames = rng.integers(0, 256, (1, 1, *spec.frame_size, 3), dtype=np.uint8)
        actions = rng.uniform(spec.action.low, spec.action.high, (1, 2 * spec.max_chunk, spec.action.dim))
        state = world.init(frames, np.zeros((1, 0, spec.action.dim)), [0])

        roll = partial(world.advance, state, actions, Fidelity(steps, policy, "unipc", context_refresh=refresh))
        last = world.decode(roll()[1][:, -1]).astype(int)
        reference = last if reference is None else reference
        found[name] = {"seconds": seconds(roll), "mean_difference": float(np.abs(last - reference).mean())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: few steps, small models")
    parser.add_argument("--world", type=Path, help="folder of a converted world")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"), help="directory for gpu_check.json")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    checks = Checks(arguments.device, arguments.quick, arguments.world, arguments.out)
    console, results = Console(), dict[str, Any]()
    for name, check in vars(Checks).items():
        if name.startswith("_"):
            continue
        try:
            results[name] = check(checks)
        except Exception as error:  # whatever it is belongs in the report, and the other checks must run
            results[name] = {"failed": f"{type(error).__name__}: {error}"}
        console.print(f"{name}: {'FAILED' if 'failed' in results[name] else 'done'}")
        (arguments.out / "gpu_check.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"report: {arguments.out / 'gpu_check.json'}", soft_wrap=True)


if __name__ == "__main__":
    main()
