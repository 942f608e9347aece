"""Check the types of single files, as `make types` checks all of them: `python .ci/types_of.py FILE ...`.

envs/, agents/ and configs/ are imported below wcsim/, which only an installed copy shows.  So a tree of links with the
installed names is made in build/types.  Easy to get wrong: mypy must run there, or it finds the checkout first.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "build" / "types"
MAPPED = ("agents", "configs", "envs")


def link_tree() -> None:
    """build/types/wcsim, with a link for every entry of wcsim/ and every mapped folder."""
    package = TREE / "wcsim"
    package.mkdir(parents=True, exist_ok=True)
    for stale in package.iterdir():
        stale.unlink()
    for entry in [*(ROOT / "wcsim").iterdir(), *(ROOT / name for name in MAPPED)]:
        (package / entry.name).symlink_to(entry)


def installed(name: str) -> str:
    """Where a file of the checkout, relative to its root, lies in the tree.  Scripts and examples are not in it."""
    top = Path(name).parts[0]
    return f"wcsim/{name}" if top in MAPPED else name if top == "wcsim" else str(ROOT / name)


def main() -> None:
    """Exit with mypy's code."""
    link_tree()
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
               str(ROOT / ".mypy_cache"), *map(installed, sys.argv[1:])]
    sys.exit(subprocess.run(command, cwd=TREE, check=False).returncode)


if __name__ == "__main__":
    main()
