"""A world that does not match its own description is refused, with the reason."""

import json
from pathlib import Path
from time import perf_counter

import pytest
import torch

from wcsim.backbones.cosmos2.tiny import tiny_parts
from wcsim.errors import CheckpointError
from wcsim.world.checkpoints import (
    find_world,
    hash_files,
    load_parts,
    read_description,
    save_world,
    verify_hashes,
)


@pytest.fixture
def folder(tmp_path):
    save_world(tmp_path / "tiny", *tiny_parts())
    return tmp_path / "tiny"


def edit(folder, change):
    description = json.loads((folder / "world.json").read_text())
    change(description)
    (folder / "world.json").write_text(json.dumps(description))


def rehash(folder):
    edit(folder, lambda description: description.update(sha256=hash_files(folder)))


def test_round_trip_keeps_float16_weights(folder):
    spec, transformer, codec = load_parts(folder)
    original_spec, original, original_codec = tiny_parts()
    assert spec == original_spec
    for (name, ours), theirs in zip(transformer.state_dict().items(), original.state_dict().values(), strict=True):
        assert ours.dtype == torch.float32, name
        assert torch.equal(ours, theirs.half().float()), name
    for ours, theirs in zip(codec.vae.state_dict().values(), original_codec.vae.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs.half().float())


def test_what_a_killed_save_left_is_no_part_of_the_world(tmp_path):
    parts = tiny_parts()
    save_world(tmp_path / "whole", *parts)
    save_world(tmp_path / "again", *parts)
    (tmp_path / "again/transformer/.tmpAbCdEf").touch()
    save_world(tmp_path / "again", *parts)
    assert (tmp_path / "again/world.json").read_bytes() == (tmp_path / "whole/world.json").read_bytes()


def test_the_codec_looks_as_often_as_the_spec_says(folder):
    assert load_parts(folder)[2].refine_steps == 0
    edit(folder, lambda d: d["spec"].update(refine_steps=2))
    assert load_parts(folder)[2].refine_steps == 2


def test_changed_missing_and_extra_files_are_named(folder):
    weights = next((folder / "transformer").glob("*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"safetensors has sha256 \w+, recorded is"):
        load_parts(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="lacks transformer/"):
        verify_hashes(folder)
    weights.write_bytes(content)
    (folder / "vae" / "more.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="more.bin is not recorded"):
        verify_hashes(folder)


def test_a_spec_that_the_weights_cannot_serve_is_refused(folder):
    edit(folder, lambda d: d["spec"].update(latent_shape=[8, 12, 12]))
    with pytest.raises(CheckpointError, match="latent channels of the codec: the weights have 4, the spec says 8"):
        load_parts(folder)
    edit(folder, lambda d: d["spec"].update(latent_shape=[4, 12, 12], frame_size=[64, 96]))
    with pytest.raises(CheckpointError, match="frame height: the weights have 96, the spec says 64"):
        load_parts(folder)


def test_weights_of_another_shape_are_refused(folder):
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"adaln_lora_dim": 8}))
    rehash(folder)
    with pytest.raises(CheckpointError, match="linear_1.weight expected shape"):
        load_parts(folder)


def test_unreadable_descriptions_are_refused(folder):
    edit(folder, lambda d: d.update(format=99))
    with pytest.raises(CheckpointError, match="format 99; this wcsim reads 1"):
        verify_hashes(folder)
    edit(folder, lambda d: d.update(format=1, refine_steps=2))
    with pytest.raises(CheckpointError, match="refine_steps is unknown; known: format, spec, sha256, source"):
        verify_hashes(folder)
    edit(folder, lambda d: (d.pop("refine_steps"), d["spec"].update(refine_step=2)))
    with pytest.raises(CheckpointError, match=r"spec\.refine_step is unknown; known: name, .*, labels, cameras"):
        verify_hashes(folder)
    edit(folder, lambda d: (d["spec"].pop("refine_step"), d["spec"].pop("fps")))
    with pytest.raises(CheckpointError, match=r"spec\.fps"):
        verify_hashes(folder)
    (folder / "world.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        verify_hashes(folder)


def test_an_unknown_world_names_the_shipped_ones():
    with pytest.raises(CheckpointError, match="neither a folder with a world.json nor shipped"):
        find_world("atlantis")


@pytest.mark.parametrize(("key", "value", "message"), [
    ("fps", 0, r"spec.fps has 0; allowed is 0.001 to 10000"), ("fps", float("nan"), "spec.fps has nan"),
    ("max_chunk", 10**30, r"spec.max_chunk has 1e\+30; allowed is 1 to 4096"),
    ("max_context", 0, "spec.max_context has 0"),
    ("default_steps", -1, "spec.default_steps"), ("frame_size", [96, 10**9], "spec.frame_size has 1e"),
    ("latent_shape", [4, 0, 12], "spec.latent_shape has 0"), ("refine_steps", -1, "spec.refine_steps has -1"),
    ("flow_shift", float("inf"), "spec.flow_shift"), ("name", "", "spec.name has 0 letters"), ("task", 7, "spec.task"),
    ("cameras", [["a", 0, 96]], "spec.cameras has 0"), ("action", {"low": [0, 0]}, r"spec.action.high: Field required"),
    ("action", [], "spec.action"), ("labels", None, "spec.labels"), ("carry", "both", "spec.carry"),
])
def test_a_description_out_of_range_is_refused(folder, key, value, message):
    edit(folder, lambda d: d["spec"].update({key: value}))
    with pytest.raises(CheckpointError, match=f"world.json: {message}"):
        read_description(folder)


@pytest.mark.parametrize(("change", "message"), [
    ({"low": [0.0, 600.0]}, "spec.action.low has 600 where spec.action.high has 512; it must be less"),
    ({"names": ["x"]}, "spec.action.names has 1 items; spec.action.low has 2"),
    ({"scale": [1.0]}, "spec.action.scale has 1 items"),
    ({"fourier_octaves": 33}, "spec.action.fourier_octaves has 33"),
    ({"high": [float("nan"), 1.0]}, "spec.action.high has nan"), ({"absolute": ["z"]}, "spec.action.absolute has 'z'"),
    ({"lo": [0.0, 0.0]}, "spec.action.lo is unknown; known: low, high, names"),
    ({"low": [], "high": [], "names": []}, "spec.action.low has 0 items"),
])
def test_an_action_out_of_range_is_refused(folder, change, message):
    edit(folder, lambda d: d["spec"]["action"].update(change))
    with pytest.raises(CheckpointError, match=f"world.json: {message}"):
        read_description(folder)


@pytest.mark.parametrize(("part", "change", "message"), [
    ("vae", {"num_res_blocks": 10**30}, "num_res_blocks is 10000000000000000000; the files hold"),
    ("transformer", {"num_layers": 10**6}, "num_layers is 1000000; the files hold"),
    ("transformer", {"num_attention_heads": 10**9}, "num_attention_heads is 1000000000; the files hold"),
    ("vae", {"dim_mult": [1] * 10**6}, "dim_mult has 1000000 items; the files hold"),
    ("vae", {"base_dim": 10**6}, r"asks for \d+ weights; the files hold \d+"),
    ("vae", {"base_dim": 10**30}, "describes no module"), ("vae", {"dim_mult": ["x"]}, "describes no module"),
    ("transformer", {"adaln_lora_dim": 10**9}, r"asks for \d+ weights; the files hold"),
    ("transformer", {"patch_size": None}, "describes no module"),
])
def test_a_config_that_asks_for_more_than_the_files_hold_is_refused_at_once(folder, part, change, message):
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    rehash(folder)
    started = perf_counter()
    with pytest.raises(CheckpointError, match=message):
        load_parts(folder)
    assert perf_counter() - started < 10


@pytest.mark.parametrize("content", ["[" * 10**6, "9" * 5000, "[]", "null", "\x00", "{\"format\": 1, \"spec\": []}",
                                     '{"format": 1}', '{"format": 1, "spec": {"action": 3}}'])
def test_a_damaged_description_is_one_line(folder, content):
    (folder / "world.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        read_description(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_never_shadows_a_shipped_world(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert find_world("tiny") == find_world("./tiny") == Path("tiny"), "a bare name that nothing ships is a folder"
    shipped = find_world("pusht-96")
    folder.rename("pusht-96")
    with pytest.warns(UserWarning, match=r"'pusht-96' is the shipped one; for the folder here write \./pusht-96"):
        assert find_world("pusht-96") == shipped
    for path in ("./pusht-96", Path("pusht-96"), str(folder.parent / "pusht-96"), "pusht-96/"):
        assert find_world(path).resolve() == folder.parent.resolve() / "pusht-96"
    for path in ("./pendulum-64", "/pusht-96", Path("pendulum-64")):
        with pytest.raises(CheckpointError, match="neither a folder with a world.json nor shipped"):
            find_world(path)


def test_cameras_fill_the_frame(folder):
    edit(folder, lambda d: d["spec"].update(cameras=[["head", 96, 60], ["wrist", 40, 36]], labels="robot state"))
    spec, _, _ = load_parts(folder)
    assert spec.cameras == (("head", 96, 60), ("wrist", 40, 36))
    assert spec.labels == "robot state"
    edit(folder, lambda d: d["spec"].update(cameras=[["head", 96, 60], ["wrist", 40, 30]]))
    with pytest.raises(CheckpointError, match="side by side, fill 96x90 pixels; its frame has 96x96"):
        load_parts(folder)
    edit(folder, lambda d: d["spec"].update(cameras=[["head", 96, 48], ["head", 96, 48]]))
    with pytest.raises(CheckpointError, match="need a name each"):
        load_parts(folder)


@pytest.mark.parametrize("name", [None, "Unheard", "os:system"])
def test_a_folder_cannot_name_code_to_run(folder, name):
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": name}))
    edit(folder, lambda d: d.update(sha256=hash_files(folder)))
    with pytest.raises(CheckpointError, match="known backbones: ActionCosmosTransformer"):
        load_parts(folder)
