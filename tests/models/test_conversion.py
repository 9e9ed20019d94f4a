from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
)
from transformers import conversion_mapping as mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.errors import BaseModelError
from prefreg.models.conversion import find_conversion, open_conversion
from prefreg.models.loading import empty_model, load_model

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
MIXTRAL = MixtralConfig(**SIZES, num_key_value_heads=1, num_local_experts=2)


def saved(config: PreTrainedConfig, folder: Path) -> BaseModel:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return resolve_base(str(folder))


def stored(base: BaseModel) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(base.path / "model.safetensors")
    return found


def test_names_on_disk_follow_transformers_own_renamings(tmp_path: Path) -> None:
    base = saved(GPTNeoXConfig(**SIZES), tmp_path / "base")
    conversion = find_conversion(empty_model(base), base.checkpoint)
    assert conversion.names["lm_head.weight"] == "embed_out.weight"
    assert not conversion.fusions
    on_disk = stored(base)
    for name, parameter in load_model(base).named_parameters():
        assert torch.equal(on_disk[conversion.names[name]], parameter.detach())


def test_fused_experts_come_apart_again_bit_for_bit(tmp_path: Path) -> None:
    base = saved(MIXTRAL, tmp_path / "base")
    model, on_disk = load_model(base), stored(base)
    conversion = open_conversion(model, base)
    experts = "model.layers.0.mlp.experts"
    assert conversion.fused == {f"{experts}.gate_up_proj", f"{experts}.down_proj"}
    assert conversion.stored == on_disk.keys()
    loaded = dict(model.named_parameters())
    for fusion in conversion.fusions:
        for name, weight in fusion.load(on_disk).items():
            assert torch.equal(weight, loaded[name])
    apart = conversion.store({name: each.detach() for name, each in loaded.items()})
    assert apart.keys() == on_disk.keys()
    assert all(torch.equal(apart[name], on_disk[name]) for name in on_disk)


def test_only_what_is_given_comes_apart(tmp_path: Path) -> None:
    base = saved(MIXTRAL, tmp_path / "base")
    conversion = find_conversion(empty_model(base), base.checkpoint)
    norm = torch.ones(16)
    assert conversion.store({"model.norm.weight": norm}) == {"model.norm.weight": norm}


def test_two_stored_tensors_cannot_be_one_weight(tmp_path: Path) -> None:
    base = saved(LlamaConfig(**SIZES), tmp_path / "base")
    twice = stored(base) | {"norm.weight": torch.ones(16)}
    save_file(twice, base.path / "model.safetensors")
    base = resolve_base(str(base.path))
    with pytest.raises(BaseModelError, match=r"it alone has '(model\.)?norm\.weight'"):
        find_conversion(empty_model(base), base.checkpoint)


class Halved(ConversionOps):
    """A way of loading that cannot be taken back as it is saved."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], *_: Any, **__: Any
    ) -> dict[str, Any]:
        return {name: each[0] * 0.5 for name, each in input_dict.items()}

    @property
    def reverse_op(self) -> ConversionOps:
        return Halved()


class Final(Halved):
    """A way of loading that transformers does not save by."""

    @property
    def reverse_op(self) -> ConversionOps:
        raise NotImplementedError("Final has no way back")


@pytest.mark.parametrize("operation", [Halved(), Final()], ids=["inexact", "one way"])
def test_what_cannot_be_taken_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: ConversionOps
) -> None:
    base = saved(LlamaConfig(**SIZES), tmp_path / "base")
    mapping.get_checkpoint_conversion_mapping("llama")  # fills the cache
    gate = "mlp.gate_proj.weight"
    rules = [WeightConverter(gate, gate, [operation])]
    monkeypatch.setitem(mapping._checkpoint_conversion_mapping_cache, "llama", rules)
    with pytest.raises(BaseModelError, match=r"model\.layers\.0\.mlp\.gate_proj\.weight"):
        open_conversion(load_model(base), base)


def test_what_loading_changes_is_refused_by_name(tmp_path: Path) -> None:
    base = saved(LlamaConfig(**SIZES), tmp_path / "base")
    model = load_model(base)
    with torch.no_grad():
        model.get_input_embeddings().weight[3] = 0.0  # as some empty the row of padding
    open_conversion(model, base, loaded=False)
    with pytest.raises(BaseModelError, match=r"'model\.embed_tokens\.weight'.*changes it in load"):
        open_conversion(model, base)
    open_conversion(load_model(base), base)
