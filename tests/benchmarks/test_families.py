"""The laws of names, on tiny models of architectures that people use."""

from pathlib import Path

import pytest
from families import judge, take_walks

from prefreg.errors import BaseModelError

PLAIN = [
    "cohere2", "falcon_h1", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "lfm2", "llama",
    "mamba", "mistral", "mllama", "opt", "phi3", "qwen2", "smollm3",
]  # fmt: skip
"""One stored tensor for each weight, under its own name or another."""
FUSED = [
    "deepseek_v3", "gpt_oss", "granitemoe", "jamba", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe",
]  # fmt: skip
WRAPPERS = ["gemma3", "mistral3", "qwen2_5_vl"]
"""They are loaded whole, with what sees."""
TEXT_PARTS = ["llama4", "qwen3_5_moe"]


@pytest.mark.parametrize("family", PLAIN + FUSED + WRAPPERS)
def test_dials_are_the_composition_and_memory_comes_apart(family: str, tmp_path: Path) -> None:
    assert judge(family, tmp_path).untouched == 0


@pytest.mark.parametrize("family", TEXT_PARTS)
def test_a_text_part_turns_and_leaves_the_towers(family: str, tmp_path: Path) -> None:
    assert judge(family, tmp_path).untouched > 0


@pytest.mark.parametrize(
    ("family", "name"), [("youtu", r"embed_tokens\.weight"), ("zaya", r"gate\.balancing_biases")]
)
def test_what_transformers_does_not_load_is_refused(family: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=f"does not load what .*{name}'"):
        judge(family, tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "qwen3_5"])
def test_every_walk_ends_where_plain_tools_do(family: str) -> None:
    """Transposed layers, experts that are fused in memory, and a text part."""
    (walks,) = take_walks([family])
    assert walks.holds, walks
