"""Compare a policy of your own with two others, in the simulator, the world and the cached world.

    python examples/evaluate_policy.py --out runs/mine

Easy to get wrong: a score of three starts says nothing yet; take 50 before you rank anything.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import yaml

from wcsim.cli import app


def make_source(speed_px: float = 20.0) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """The policy: walk towards the centre of the table.  A source turns an observation into an action `[A]`."""

    def source(observation: Mapping[str, np.ndarray]) -> np.ndarray:
        here = observation["agent_pos"].astype(np.float64)
        away = 256.0 - here
        return here + away * min(1.0, speed_px / max(float(np.linalg.norm(away)), 1e-9))

    return source


def main() -> None:
    """Write the configuration, run it as `wcsim evaluate` does, and print the scores from its summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="pusht-96", help="a shipped world's name, or a folder")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/example_evaluation"))
    arguments = parser.parse_args()

    policies = [
        {"kind": "function", "name": "mine", "function": f"{Path(__file__).stem}:make_source",
         "options": {"speed_px": 20.0}},
        {"kind": "expert", "name": "expert"},
        {"kind": "random", "name": "random"},
    ]
    config = {
        "name": "example", "world": arguments.world, "task": {"name": "pusht", "options": {"start": "near"}},
        "policies": policies, "starts": arguments.starts, "first_seed": 710000, "max_steps": arguments.max_steps,
        "fidelity": {"steps": 10, "context": 2, "cache": "wcsim"},
    }
    path = arguments.out.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config), "utf-8")
    # A configuration names code, so the command loads only what is allowed: here, this file.
    app(["evaluate", str(path), "--out", str(arguments.out), "--allow", Path(__file__).stem], standalone_mode=False)

    summary = json.loads((arguments.out / "summary.json").read_text("utf-8"))
    for policy in summary["policies"]:
        scores = [f"{place} {policy[place]['final_progress']:.3f}" for place in ("truth", "uncached", "cached")]
        print(f"{policy['name']}: progress at the end in {', '.join(scores)}")


if __name__ == "__main__":
    main()
