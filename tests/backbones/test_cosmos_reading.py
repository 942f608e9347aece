"""Checkpoints under whatever prefix training code left; distributed ones without running what they name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import checkpoint

from wcsim.backbones.cosmos2.reading import FIRST, own_names, read_checkpoint
from wcsim.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # which is how one process saves

OTHER = "blocks.0.self_attn.q_proj.weight"


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {FIRST: torch.randn(4, 4, generator=generator), OTHER: torch.randn(3, generator=generator).bfloat16()}


def under(prefix: str, seed: int = 0) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights(seed).items()}


def same(found: dict[str, Any], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("prefix", ["", "net.", "net_ema.", "module.", "module.net.", "model.net.", "model.",
                                    "_orig_mod.", "net._orig_mod.", "module.model.net_ema.",
                                    "_fsdp_wrapped_module.net."])
def test_the_names_of_wrappers_are_taken_off(prefix: str) -> None:
    assert same(own_names(under(prefix)), weights())


def test_a_wrapper_within_a_name_is_taken_off() -> None:
    name = OTHER.replace("self_attn", "_fsdp_wrapped_module.self_attn._orig_mod")
    assert same(own_names({f"net.{FIRST}": weights()[FIRST], f"net.{name}": weights()[OTHER]}), weights())


@pytest.mark.parametrize("before", ["", "module.", "model."])
def test_averaged_weights_win(before: str) -> None:
    both = {**under(before + "net.", 1), **under(before + "net_ema.", 2)}
    assert same(own_names(both), weights(2))
    assert same(own_names(dict(reversed(both.items()))), weights(2))


@pytest.mark.parametrize("prefix", ["teacher.", "fake_score.net.", "student.model."])
def test_an_unknown_prefix_is_named(prefix: str) -> None:
    with pytest.raises(CheckpointError, match=rf"the weights are named {prefix}\.\.; understood are net_ema\., net\."):
        own_names(under(prefix))


@pytest.mark.parametrize("nested", [
    lambda: {"ema": under("net.")}, lambda: {"model": under("net.", 1), "ema": weights(), "step": 3},
    lambda: {"state_dict": {"module": under("model.net.")}}])
def test_what_is_nested_is_found(tmp_path: Path, nested: Any) -> None:
    torch.save(nested(), tmp_path / "model.pt")
    assert same(read_checkpoint(tmp_path / "model.pt"), weights())


def distributed(folder: Path, state: dict[str, Any]) -> Path:
    checkpoint.save(state, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.mark.parametrize("state", [lambda: under("net."), lambda: {**under("net.", 1), **under("net_ema.")},
                                   lambda: {"model": under("net.")}])
def test_a_distributed_checkpoint_is_read_as_it_lies(tmp_path: Path, state: Any) -> None:
    assert same(read_checkpoint(distributed(tmp_path / "model", state())), weights())


class Sly:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("call", [Sly, lambda path: LoadsMore(path)])
def test_what_a_description_would_run_is_not_run(tmp_path: Path, call: Any) -> None:
    folder, mark = distributed(tmp_path / "model", under("net.")), tmp_path / "mark"
    (folder / ".metadata").write_bytes(pickle.dumps(call(mark)))
    with pytest.raises(CheckpointError, match="the checkpoint's description names"):
        read_checkpoint(folder)
    assert not mark.exists()


class LoadsMore(Sly):
    """Asks torch to load another file, without its care."""

    def __reduce__(self) -> Any:
        return torch.load, (str(self.path),)


def test_what_is_no_tensor_is_left_out(tmp_path: Path) -> None:
    """Torch would unpickle it."""
    folder = distributed(tmp_path / "model", {**under("net."), "net.step": Sly(tmp_path / "mark")})
    assert same(read_checkpoint(folder), weights())
    assert not (tmp_path / "mark").exists()


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no \.metadata that can be read"):
        read_checkpoint(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="is described by a dict"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("told", ["model:\n  _target_: DistillationModel\n", "job: self_forcing_warmup\n",
                                  "net: CausalDiT\n", "method: dmd2\n"])
def test_a_student_is_refused_by_its_configuration(tmp_path: Path, told: str) -> None:
    torch.save(under("net."), tmp_path / "model.pt")
    assert same(read_checkpoint(tmp_path / "model.pt"), weights())
    (tmp_path / "config.yaml").write_text(told)
    with pytest.raises(CheckpointError, match="weights of a distilled or causal network"):
        read_checkpoint(tmp_path / "model.pt")
