"""Make environments with the real software of others, and run the tests that need it: python scripts/foreign.py [NAME]

Each lies in build/foreign/NAME, gigabytes in all; PIP_ARGS names another index, as of CPU builds of torch.  Easy to get
wrong: a test that needs what is not installed skips, so a run in which every test skips counts as failed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6", "msgpack>=1", "websockets>=15", "av>=15", "pyarrow>=20")


@dataclass(frozen=True)
class Foreign:
    """packages: what is installed beside wcsim.  tests: what runs there.  python: the interpreter that it needs."""

    packages: tuple[str, ...]
    tests: tuple[str, ...]
    python: str = "python3.11"


FOREIGN = {
    "lerobot": Foreign(("lerobot==0.6.1", "torch==2.11.0", "torchvision==0.26.0"),
                       ("tests/scripts/test_lerobot_plugin.py", "tests/data/test_lerobot_package.py"), "python3.12"),
    "sb3": Foreign(("stable-baselines3>=2.7",), (
        "tests/contracts/test_environments.py::test_stable_baselines3_trains",
        "tests/agents/test_adapters.py::test_a_stable_baselines3_model_acts_in_every_lane_as_alone")),
    "torchrl": Foreign(("torchrl>=0.11,<0.15",), ("tests/contracts/test_foreign.py::test_torchrl_rolls_out",)),
    "swm": Foreign(("stable-worldmodel==0.1.1",), (
        "tests/contracts/test_foreign.py::test_a_solver_of_stable_worldmodel_plans_in_a_world",)),
    "openpi": Foreign(("openpi-client==0.1.2",), ("tests/contracts/test_foreign.py::test_openpi_packs_as_we_do",)),
}


def make(name: str) -> Path:
    """The interpreter of an environment, made where it is not there yet."""
    folder, told = ROOT / "build/foreign" / name, FOREIGN[name]
    python = folder / "bin/python"
    if not (folder / ".ready").is_file():
        subprocess.run([told.python, "-m", "venv", str(folder)], check=True)
        extra = shlex.split(os.environ.get("PIP_ARGS", ""))
        subprocess.run([str(python), "-m", "pip", "install", *extra, *told.packages, "-e", str(ROOT), *TOOLS],
                       check=True)
        (folder / ".ready").touch()
    return python


def test(name: str) -> str:
    """Run the tests of one; what went wrong, or nothing."""
    done = subprocess.run([str(make(name)), "-m", "pytest", "-m", "slow or not slow", "-W", "default",
                           *FOREIGN[name].tests], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, flush=True)
    if done.returncode:
        return f"pytest ended with {done.returncode}"
    return "" if re.search(r"^[.s]*\.", done.stdout, re.MULTILINE) else "every test skipped"


def main(names: list[str]) -> int:
    """All, or those that are named; 1 where one failed."""
    unknown = set(names) - set(FOREIGN)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(FOREIGN)}", file=sys.stderr)
        return 2
    failed = {name: why for name in names or FOREIGN if (why := test(name))}
    for name, why in failed.items():
        print(f"{name}: {why}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
