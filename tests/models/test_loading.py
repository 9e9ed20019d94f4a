import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlavaConfig,
    MixtralConfig,
    PreTrainedConfig,
)

import worded
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.errors import BaseModelError
from prefreg.models.loading import (
    context_length,
    empty_model,
    load_config,
    load_limits,
    load_model,
    stored_names,
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


SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def saved(config: PreTrainedConfig, folder: Path) -> BaseModel:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return resolve_base(str(folder))


def test_names_on_disk_follow_transformers_own_renamings(tmp_path: Path) -> None:
    base = saved(GPTNeoXConfig(**SIZES), tmp_path / "base")
    names = stored_names(empty_model(base), base.checkpoint)
    assert names["lm_head.weight"] == "embed_out.weight"
    stored = load_file(base.path / "model.safetensors")
    for name, parameter in load_model(base).named_parameters():
        assert torch.equal(stored[names[name]], parameter.detach())


def test_what_loading_fuses_has_no_name_on_disk(tmp_path: Path) -> None:
    config = MixtralConfig(**SIZES, num_key_value_heads=1, num_local_experts=2)
    base = saved(config, tmp_path / "base")
    model = empty_model(base)
    with pytest.raises(BaseModelError, match=r"it lacks 'model.*experts\.down_proj'"):
        stored_names(model, base.checkpoint)
    names = stored_names(model, base.checkpoint, whole=False)
    assert names["model.layers.0.mlp.gate.weight"] == "model.layers.0.block_sparse_moe.gate.weight"
    assert not any("experts" in name for name in names)
