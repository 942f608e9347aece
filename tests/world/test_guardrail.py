"""The guardrail: off unless asked for, and then between a world and whoever looks at it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wcsim.backbones.cosmos2.base_clips import ClipRequest, imagine_clip
from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_cosmos, tiny_world
from wcsim.cache import NoCache
from wcsim.config import validate
from wcsim.envs.imagined import ImaginedEnv
from wcsim.envs.lanes import load_world
from wcsim.errors import ConfigError, GuardrailError, RunError
from wcsim.experiments.closed_loop import ClosedLoop, ClosedLoopConfig, parts_of
from wcsim.report.conditions import conditions
from wcsim.runs.run import Run
from wcsim.world.guardrail import VARIABLE, Guardrail
from wcsim.world.world import World

BLACK = Guardrail(frames=np.zeros_like)


class Checker:
    """The interface of the checkers that diffusers' pipelines take."""

    def check_text_safety(self, text):
        return "bad" not in text

    def check_video_safety(self, frames):
        assert frames.ndim == 4
        return None if frames.mean() > 100 else frames // 2


def make():
    return BLACK


@pytest.mark.parametrize("tiny", [tiny_world, tiny_clip_world])
def test_it_sees_every_frame_that_is_decoded(tiny):
    plain = tiny()
    watched = World(plain.spec, plain.transformer, plain.codec, guardrail=BLACK)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, *plain.spec.frame_size, 3), dtype=np.uint8)
    latents = plain.encode(frames)
    assert plain.decode(latents).any()
    assert watched.decode(latents).shape == plain.decode(latents).shape
    assert not watched.decode(latents).any()
    refusing = World(plain.spec, plain.transformer, plain.codec, guardrail=Guardrail(frames=lambda frames: None))
    with pytest.raises(GuardrailError, match="refuses 2 imagined frames"):
        refusing.decode(latents)


def test_a_checker_as_diffusers_takes_it():
    guardrail = Guardrail.of(Checker())
    with pytest.raises(GuardrailError, match="refuses the prompt 'bad'"):
        guardrail.check_prompt("bad")
    guardrail.check_prompt("good")
    dark, light = np.full((2, 3, 4, 4, 3), 50, np.uint8), np.full((1, 4, 4, 3), 200, np.uint8)
    assert np.array_equal(guardrail.check_frames(dark), dark // 2)
    with pytest.raises(GuardrailError, match="refuses 1 imagined frames"):
        guardrail.check_frames(light)
    with pytest.raises(ConfigError, match="the guardrail turned uint8 frames"):
        Guardrail(frames=lambda frames: frames[:, ::2]).check_frames(light)


def test_a_process_may_name_one(monkeypatch):
    monkeypatch.setenv(VARIABLE, f"{__name__}:make")
    assert tiny_world()._guardrail.frames is BLACK.frames
    for name, words in (("json", "it must be module:function"), ("json:dumps_all", "has no attribute"),
                        ("no_such_module:make", "No module named"), ("time:time", "it must be module:function")):
        monkeypatch.setenv(VARIABLE, name)
        with pytest.raises(ConfigError, match=words):
            tiny_world()
    monkeypatch.delenv(VARIABLE)
    assert tiny_world()._guardrail is None


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_clips_of_a_base_model():
    parts, text = tiny_cosmos(), torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    pictures = np.random.default_rng(0).integers(0, 256, (7, 32, 48, 3), dtype=np.uint8)
    request = ClipRequest(size=(32, 48), frames=9, steps=2, guidance=0.0)
    for given in (None, pictures[:1], pictures):
        frames, decisions = imagine_clip(parts, request, NoCache(), text=text, given=given)
        assert frames.shape == (9, 32, 48, 3)
        assert len(decisions) == 2
    last, _ = imagine_clip(parts, request, NoCache(), text=text, given=pictures[-5:])
    assert np.array_equal(frames, last), "of a video the last five frames count"
    watched, _ = imagine_clip(parts, request, NoCache(), text=text, guardrail=BLACK)
    assert not watched.any()
    with pytest.raises(ConfigError, match=r"given are uint8 \[7, 32, 48, 3\]; needed are uint8 \['T', 32, 32, 3\]"):
        imagine_clip(parts, ClipRequest(size=(32, 32), frames=9, guidance=0.0), NoCache(), text=text, given=pictures)
    with pytest.raises(ConfigError, match="guidance is 7 and needs the features of a negative prompt"):
        imagine_clip(parts, ClipRequest(size=(32, 48), frames=9), NoCache(), text=text)
    with pytest.raises(ConfigError, match="leave nothing to imagine"):
        imagine_clip(parts, ClipRequest(size=(32, 48), frames=5, guidance=0.0), NoCache(), text=text, given=pictures)
    for wrong in ({"size": (30, 48)}, {"frames": 8}):
        with pytest.raises(ConfigError, match="multiples of 16|1 \\+ 4 n"):
            ClipRequest(**wrong)


@pytest.mark.parametrize(("guardrail", "share"), [
    (Guardrail(name="lets all pass"), 0.0), (Guardrail(frames=np.zeros_like, name="black"), 1.0),
    (Guardrail(frames=lambda frames: half(frames), name="half"), 0.5)])
def test_what_it_did_is_told(guardrail: Guardrail, share: float) -> None:
    plain = tiny_world()
    world = World(plain.spec, plain.transformer, plain.codec, guardrail=guardrail)
    assert (plain.guardrail, world.guardrail) == (None, guardrail.name)
    latents = torch.randn(2, 3, *plain.spec.latent_shape, generator=torch.Generator().manual_seed(0))
    frames, changed = world.decode_guarded(latents)
    assert changed.shape == (2, 3)
    np.testing.assert_allclose(changed, share, atol=0.02)  # a pixel may be black already
    np.testing.assert_array_equal(frames, world.decode(latents))


def test_a_run_that_shows_no_imagined_frame_names_it_too(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {}, {"guardrail": "g", "labels": "none"}) as run:
        run.record("cell=a", [], {})
        assert "The guardrail g was on. No imagined frame was shown" in conditions(run)


def half(frames: np.ndarray) -> np.ndarray:
    """In place, as a careless one would."""
    frames[..., : frames.shape[-2] // 2, :] = 0
    return frames


def make_half() -> Guardrail:
    return Guardrail(frames=half)


def test_a_run_names_it_in_manifest_page_and_rows(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{__name__}:make_half"
    monkeypatch.setenv(VARIABLE, name)
    load_world.cache_clear()
    parts_of.cache_clear()
    try:
        settings = {"name": "x", "world": folder, "task": {"name": "pusht"}, "episodes": 1, "max_steps": 3,
                    "policy": {"kind": "random"}, "fidelity": {"steps": 2}}
        config = validate(ClosedLoopConfig, settings)
        run = ClosedLoop(config).run(tmp_path / "run")
        assert run.manifest["guardrail"] == name
        told = run.episodes[0]["guardrail"]
        assert (told["frames"], told["changed"]) == (6, 6), "three steps in two worlds"
        assert told["pixels"] == pytest.approx(0.5, abs=0.05)
        assert f"The guardrail {name} saw 6 imagined frames and changed 6 of them" in conditions(run)
        env = ImaginedEnv("pusht", folder, fidelity={"steps": 2, "cache": "none"})
        assert env.reset(seed=1)[1]["guardrail_changed"] == 0.0, "a real frame"
        info = env.step(env.action_space.low)[4]
        assert info["guardrail"] == name
        assert info["guardrail_changed"] == pytest.approx(0.5, abs=0.05)
        monkeypatch.delenv(VARIABLE)
        with pytest.raises(RunError, match=f"guardrail {name} then, nothing now"):
            ClosedLoop(config).run(tmp_path / "run")
    finally:
        load_world.cache_clear()
        parts_of.cache_clear()
