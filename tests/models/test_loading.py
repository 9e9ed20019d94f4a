from pathlib import Path

import pytest
from transformers import GPT2Config, LlamaConfig, LlavaConfig

import worded
from prefreg.checkpoints.bases import resolve_base
from prefreg.errors import BaseModelError
from prefreg.models.loading import context_length, load_config, load_limits


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
