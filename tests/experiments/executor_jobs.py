"""Jobs of tests, in a module of their own, so that workers can import them."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any


def stubborn(number: int) -> list[Any]:
    """Prints, and fails where the number is negative."""
    from wcsim.experiments.jobs import Outcome

    print("at", number)
    return [Outcome(f"job={number}", {"episode": number, "value": math.factorial(number)})]


def deadly(number: int) -> int:
    """Takes its process along where the number is negative."""
    if number < 0:
        os._exit(1)
    return math.factorial(number)


def gpus_here(number: int) -> str:
    """The GPUs of this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def careful(marker: Path) -> str:
    """Takes its process along the first time."""
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return "done"


def slow_square(number: int) -> int:
    """In half a second."""
    time.sleep(0.5)
    return number**2
