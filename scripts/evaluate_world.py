"""Evaluate the world that training exports, on the test split's seeds, as `wcsim bench world` does.

    python scripts/evaluate_world.py configs/train_pusht96.yaml

Writes `OUTPUT/evaluation/summary.json` and prints the figures by horizon.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from recipe import Recipe
from wcsim.experiments.bench.world import measure_world, table_of
from wcsim.progress import progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="training recipe (YAML)")
    parser.add_argument("--steps", type=int, default=None, help="denoise steps (default: the world's)")
    arguments = parser.parse_args()
    recipe = Recipe.load(arguments.recipe)
    test = recipe.data.splits["test"]
    with progress("world") as shown:
        summary = measure_world(str(recipe.output / "world"), first_seed=test.first_seed, episodes=test.episodes,
                                steps=arguments.steps, out=recipe.output / "evaluation", say=shown.say)
    Console().print(table_of(summary))


if __name__ == "__main__":
    main()
