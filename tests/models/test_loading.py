import json
from pathlib import Path

import psutil
import pytest
import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import worded
from prefreg.checkpoints.bases import resolve_base
from prefreg.errors import BaseModelError
from prefreg.models.loading import (
    context_length,
    empty_model,
    load_config,
    load_limits,
    load_model,
)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(max_position_embeddings=48),
        GPT2Config(n_positions=48),
        LlavaConfig(text_config=LlamaConfig(max_position_embeddings=48)),
    ],
    ids=["plain", "by another name", "composite"],
)
def test_every_kind_of_configuration_says_its_context(config: LlamaConfig) -> None:
    assert context_length(config) == 48


def test_a_configuration_without_positions_has_no_limit() -> None:
    config = LlamaConfig()
    config.max_position_embeddings = 0
    assert context_length(config) is None


def test_limits_are_those_of_the_configuration(tmp_path: Path) -> None:
    base = resolve_base(str(worded.save(tmp_path / "base")))
    config = load_config(base)
    assert load_limits(base) == (config.max_position_embeddings, config.vocab_size)


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    base = resolve_base(str(worded.save(tmp_path / "base")))
    (base.path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(BaseModelError, match=r"The configuration of .*base cannot be read"):
        load_config(base)


def test_generation_defaults_that_could_not_be_saved_are_reduced(tmp_path: Path) -> None:
    folder = worded.save(tmp_path / "base")
    defaults = {"do_sample": False, "temperature": 0.9, "eos_token_id": [1, 2]}
    (folder / "generation_config.json").write_text(json.dumps(defaults))
    model = load_model(resolve_base(str(folder)))
    model.generation_config.pad_token_id = 0  # as trainers do before they save
    model.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [1, 2]
    assert "temperature" not in saved


def test_of_a_model_for_images_only_the_text_part_is_to_be_trained(tmp_path: Path) -> None:
    text = {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16}
    sight = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16}
    small = {"num_hidden_layers": 1, "num_attention_heads": 2}
    images = {"image_size": 28, "patch_size": 14, "projection_dim": 16}
    config = LlavaConfig(text_config=text | small, vision_config=sight | small | images)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    base = resolve_base(str(tmp_path / "base"))
    for model in (load_model(base), empty_model(base)):
        trained = {name for name, each in model.named_parameters() if each.requires_grad}
        text_part = ("model.language_model.", "lm_head.")
        assert trained == {name for name in model.state_dict() if name.startswith(text_part)}


def test_a_model_that_is_larger_than_memory_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve_base(str(worded.save(tmp_path / "base")))
    size = 4 * base.fingerprint.parameters
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=size - 1))
    for dtype in (torch.float32, "auto"):
        with pytest.raises(BaseModelError, match=r"takes .* of memory, and .* are free"):
            load_model(base, dtype)
    assert load_model(base, torch.bfloat16).dtype == torch.bfloat16  # half of it
