"""Prompts by a tiny text encoder of the real class against the official pipeline's."""

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from official import official_pipeline
from wcsim.backbones.cosmos2.prompts import encode_prompts, load_encoder
from wcsim.backbones.cosmos2.tiny import tiny_cosmos
from wcsim.errors import CheckpointError, GuardrailError
from wcsim.world.guardrail import Guardrail

PROMPTS = ["a robot arm folds a towel", "", "arm arm towel " * 30]
WORDS = ["<pad>", "<unk>", "system", "user", "a", "robot", "arm", "folds", "towel", "helpful", "prompts", "image", "."]
TEMPLATE = "{% for turn in messages %}{{ turn.role }} {{ turn.content[0].text }} . {% endfor %}"


def encoder_and_tokenizer():
    """Qwen2.5-VL with random weights, 2 layers of 16, and a tokenizer of whole words."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: at for at, word in enumerate(WORDS)}, "<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", chat_template=TEMPLATE
    )
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 128,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
              "fullatt_block_indexes": [0]}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    torch.manual_seed(0)
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval(), tokenizer


@pytest.mark.filterwarnings("ignore")  # other people's deprecations, in a package that is only an extra
def test_features_are_the_official_ones(tmp_path):
    encoder, tokenizer = encoder_and_tokenizer()
    pipeline = official_pipeline(*tiny_cosmos(), text_encoder=encoder, tokenizer=tokenizer)
    negative = ["robot", "towel", "user"]
    with torch.no_grad():
        expected = pipeline.encode_prompt(PROMPTS, negative, max_sequence_length=48)
    ours = [encode_prompts(encoder, tokenizer, prompts, max_tokens=48) for prompts in (PROMPTS, negative)]
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.shape == (3, 48, 2 * 16)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert not torch.equal(ours[0][0], ours[0][1])
    encoder.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = load_encoder(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(encode_prompts(*loaded, PROMPTS, max_tokens=48), ours[0], rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="holds no text encoder"):
        load_encoder(tmp_path / "nowhere")


def test_without_transformers_it_says_what_to_do(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("wcsim.backbones.cosmos2.prompts.import_module", missing)
    with pytest.raises(CheckpointError, match=r"need the package transformers .*pip install wcsim\[text\], or give"):
        load_encoder(tmp_path)


def test_a_guardrail_reads_prompts_first():
    class Encoder:
        def __call__(self, *args, **kwargs):
            raise AssertionError("encoded before it was checked")

    guardrail = Guardrail(prompt=lambda text: "towel" not in text)
    with pytest.raises(GuardrailError, match="refuses the prompt 'a towel'"):
        encode_prompts(Encoder(), None, ["a towel"], guardrail=guardrail)
    assert Guardrail().frames(np.zeros(1)) is not None
