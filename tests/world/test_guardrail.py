"""The guardrail: off unless asked for, and then between a world and whoever looks at it."""

import numpy as np
import pytest
import torch

from wcsim.backbones.cosmos2.base_clips import ClipRequest, imagine_clip
from wcsim.backbones.cosmos2.tiny import tiny_clip_world, tiny_cosmos, tiny_world
from wcsim.cache import NoCache
from wcsim.errors import ConfigError, GuardrailError
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
