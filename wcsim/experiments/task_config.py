"""A task as configuration, and the files that it reads.

Easy to get wrong: a task from outside wcsim is code that a run depends on, so its module counts as one of its files.
"""

from __future__ import annotations

from inspect import getmodule
from pathlib import Path
from typing import Any

from pydantic import Field

from wcsim.config import StrictConfig
from wcsim.envs.tasks import Task, make_task


class TaskConfig(StrictConfig):
    """A task by its name or `module:Class`, and its options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    def build(self) -> Task:
        """The task."""
        return make_task(self.name, **self.options)

    def files(self) -> dict[str, Path]:
        """What the task reads, such as recordings, by file name; of a task from outside its module, too."""
        task = self.build()
        module = getmodule(type(task))
        source = None if module is None or module.__name__.startswith("wcsim.") else module.__file__
        own = {} if source is None else {"module": Path(source)}
        return own | {path.name: path for path in task.files()}
