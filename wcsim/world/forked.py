"""Worlds in a forked process, as those of `vectorization_mode="async"`, which forks by default.

A fork copies memory but no threads: PyTorch's pools then wait for ever for threads that are not there.  So a forked
child computes on one thread, as PyTorch's own data loaders do.  Easy to get wrong: to change the number of threads
within the child waits for the lost ones, too, so it is changed before the fork, and back afterwards in the parent.
"""

from __future__ import annotations

import os

import cv2
import torch

_before: list[tuple[int, int]] = []


def _one_thread() -> None:
    """Before a fork: compute on the calling thread alone."""
    _before.append((torch.get_num_threads(), cv2.getNumThreads()))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _as_before() -> None:
    """After it, in the parent."""
    threads, other = _before.pop()
    torch.set_num_threads(threads)
    cv2.setNumThreads(other)


if hasattr(os, "register_at_fork"):  # nobody forks on Windows
    os.register_at_fork(before=_one_thread, after_in_parent=_as_before)
