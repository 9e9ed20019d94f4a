import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LagunaConfig,
    LagunaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

import adapters
import tiny
from adapters import peft
from prefreg.checkpoints.bases import BaseModel
from prefreg.errors import BaseModelError, VectorError
from prefreg.vectors import peft_adapters
from prefreg.vectors.lora_layers import LoraLayers
from prefreg.vectors.peft_adapters import adapter_tensors, place_factors, read_adapter

WEIGHTS = "adapter_model.safetensors"


def merged(base: BaseModel, model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """Return what PEFT adds to each weight of the base, by the names in memory."""
    wrapped = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    return {name: parameter.detach() for name, parameter in wrapped.named_parameters()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"r": 3, "lora_alpha": 5},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.0.mlp.up_proj": 7}, "alpha_pattern": {"q_proj": 9}},
        {"target_modules": "all-linear"},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
        {"target_modules": r".*\.mlp\..*proj"},
        {"layers_to_transform": [0]},
    ],
)
def test_the_factors_are_what_peft_adds(tmp_path: Path, settings: dict[str, Any]) -> None:
    base = tiny.in_base(lambda: tiny.llama(tied=False), tmp_path / "base")
    folder = adapters.save_adapter(tiny.llama(tied=False), tmp_path / "adapter", seed=1, **settings)
    adapter = read_adapter(folder, base.checkpoint)
    before = dict(tiny.llama(tied=False).named_parameters())
    after = merged(base, tiny.llama(tied=False), folder)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert adapter.factors.keys() == changed
    for name, part in adapter.factors.items():
        torch.testing.assert_close(
            part.b @ part.a, after[name] - before[name], rtol=1e-4, atol=1e-6
        )


def test_weights_that_are_stored_the_other_way_round(tmp_path: Path) -> None:
    base = tiny.in_base(tiny.gpt2, tmp_path / "base")
    folder = adapters.save_adapter(
        tiny.gpt2(), tmp_path / "adapter", seed=1, target_modules=["c_attn", "c_proj"],
        fan_in_fan_out=True,
    )  # fmt: skip
    before, after = dict(tiny.gpt2().named_parameters()), merged(base, tiny.gpt2(), folder)
    factors = read_adapter(folder, base.checkpoint).factors
    assert len(factors) == 3
    for name, part in factors.items():
        assert part.shape == before[name].shape
        torch.testing.assert_close(
            part.b @ part.a, after[name] - before[name], rtol=1e-4, atol=1e-6
        )


def test_names_follow_the_checkpoint(tmp_path: Path) -> None:
    """Old GPT-2 checkpoints lack the prefix that the model's names have in memory."""
    folder = tiny.save(tiny.gpt2(), tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    layers = LoraLayers(tiny.resolve_base(str(folder)).checkpoint).text
    layer = layers["transformer.h.0.attn.c_attn"]
    assert (layer.weight, layer.transposed) == ("h.0.attn.c_attn.weight", True)


def test_a_tied_head_is_no_layer_of_its_own(base: BaseModel) -> None:
    layers = LoraLayers(base.checkpoint).text
    assert {name.rpartition(".")[2] for name in layers} == set(adapters.LINEAR)


def test_a_head_of_its_own_is_told_apart(tmp_path: Path) -> None:
    base = tiny.in_base(lambda: tiny.llama(tied=False), tmp_path / "base")
    assert [name for name, layer in LoraLayers(base.checkpoint).text.items() if layer.output] == [
        "lm_head"
    ]


def test_layers_that_peft_refuses_are_left_out(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1)
    MambaForCausalLM(config).save_pretrained(tmp_path / "base")
    layers = LoraLayers(tiny.resolve_base(str(tmp_path / "base")).checkpoint).text
    assert {name.rpartition(".")[2] for name in layers} == {"in_proj", "x_proj", "dt_proj"}


def test_layers_that_peft_loses_in_loading_are_left_out(tmp_path: Path) -> None:
    """PEFT 0.21 renames Laguna's shared experts to a name with two dots."""
    config = LagunaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
    )
    LagunaForCausalLM(config).save_pretrained(tmp_path / "base")
    layers = LoraLayers(tiny.resolve_base(str(tmp_path / "base")).checkpoint)
    shared = {name for name in layers.linear if ".shared_experts." in name}
    assert shared
    assert not shared & layers.text.keys()
    assert any("q_proj" in name for name in layers.text)
    assert "PEFT loses it when it loads an adapter" in {layers.refused[name] for name in shared}


def test_layers_that_peft_takes_for_fused_experts_are_left_out(tmp_path: Path) -> None:
    config = Glm4MoeConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        n_routed_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        first_k_dense_replace=1,
    )
    Glm4MoeForCausalLM(config).save_pretrained(tmp_path / "base")
    layers = LoraLayers(tiny.resolve_base(str(tmp_path / "base")).checkpoint).text
    kinds = {name.rpartition(".")[2] for name in layers}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"}


def test_an_architecture_that_is_not_known_is_told(base: BaseModel) -> None:
    config = base.path / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"unheard-of"'))
    with pytest.raises(BaseModelError, match="cannot be told from its configuration"):
        LoraLayers(base.checkpoint)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return adapters.save_adapter(tiny.llama(tied=True), tmp_path / "adapter", seed=1)


def configure(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "use_dora is set, and DoRA rescales whole weights"),
        ({"lora_bias": True}, "lora_bias is set, and it trains biases"),
        ({"bias": "all"}, "bias is 'all', and biases have no factors"),
        ({"trainable_token_indices": [1]}, "embeddings of single tokens"),
        ({"layer_replication": [[0, 1]]}, "it repeats layers"),
        ({"use_qalora": True}, "quantised base"),
        ({"target_parameters": ["experts.w"]}, "no stack of experts of that name"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changed the base"),
        ({"some_novelty": 3}, "the setting some_novelty is not known here"),
        ({"peft_type": "IA3"}, "of type 'IA3'; only LORA"),
        ({"r": 0}, "is damaged"),
        ({"r": "8"}, "is damaged"),
        ({"lora_alpha": None}, "is damaged"),
        ({"rank_pattern": {"(": 2}}, "is damaged"),
        ({"target_modules": "("}, "is damaged"),
        ({"rank_pattern": 3}, "is damaged"),
    ],
)
def test_what_factors_cannot_hold_is_refused_with_its_reason(
    base: BaseModel, adapter: Path, changes: dict[str, Any], reason: str
) -> None:
    configure(adapter, **changes)
    with pytest.raises(VectorError, match=reason):
        read_adapter(adapter, base.checkpoint)


def test_every_reason_is_told_at_once(base: BaseModel, adapter: Path) -> None:
    configure(adapter, use_dora=True, bias="all")
    with pytest.raises(VectorError, match=r"bias is 'all'.*; use_dora is set.*Merge the adapter"):
        read_adapter(adapter, base.checkpoint)


def rewrite(adapter: Path, change: Any) -> None:
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / WEIGHTS)


def test_missing_unexpected_and_mismatched_modules_are_listed(
    base: BaseModel, adapter: Path
) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        layer = "base_model.model.model.layers.0."
        for side in "AB":
            del tensors[f"{layer}self_attn.q_proj.lora_{side}.weight"]
            tensors[f"{layer}self_attn.r_proj.lora_{side}.weight"] = torch.ones(4, 4)
        del tensors[f"{layer}self_attn.k_proj.lora_A.weight"]
        tensors[f"{layer}mlp.up_proj.lora_A.weight"] = torch.ones(4, 5)

    rewrite(adapter, change)
    with pytest.raises(VectorError) as caught:
        read_adapter(adapter, base.checkpoint)
    message = str(caught.value)
    assert (
        "it lacks factors of 'model.layers.0.self_attn.k_proj', 'model.layers.0.self_attn.q_p"
        in message
    )
    assert "no layer of its own called 'model.layers.0.self_attn.r_proj'" in message
    assert "'model.layers.0.mlp.up_proj (B [48, 4], A [4, 5] for [48, 4], [4, 32])'" in message


def test_a_rank_that_its_configuration_does_not_say_is_refused(
    base: BaseModel, adapter: Path
) -> None:
    configure(adapter, r=8)
    with pytest.raises(VectorError, match="of other shapes are"):
        read_adapter(adapter, base.checkpoint)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_C", torch.ones(4, 64)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector", torch.ones(48)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_B.bias", torch.ones(48)),
        ("base_model.model.other.weight", torch.ones(64, 32)),
        ("base_model.model.x.lora_A.weight", torch.ones(4, 4, dtype=torch.int8)),
    ],
)
def test_tensors_that_are_no_factors_are_refused(
    base: BaseModel, adapter: Path, name: str, tensor: torch.Tensor
) -> None:
    rewrite(adapter, lambda tensors: tensors.update({name: tensor}))
    with pytest.raises(VectorError, match="which are no float factors of linear layers"):
        read_adapter(adapter, base.checkpoint)


def test_lora_on_a_tied_head_is_refused(base: BaseModel, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="tied"):
        folder = adapters.save_adapter(
            tiny.llama(tied=True), tmp_path / "head", seed=1, target_modules=["lm_head"]
        )
    with pytest.raises(VectorError, match="no layer of its own called 'lm_head'"):
        read_adapter(folder, base.checkpoint)


def test_lora_on_tied_embeddings_is_refused(base: BaseModel, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="tied"):
        folder = adapters.save_adapter(
            tiny.llama(tied=True), tmp_path / "table", seed=1, target_modules=["embed_tokens"]
        )
    with pytest.raises(VectorError, match=r"no layer of its own called 'model\.embed_tokens'"):
        read_adapter(folder, base.checkpoint)


@pytest.mark.parametrize(
    ("name", "saved"),
    [("lm_head.weight", ["lm_head"]), ("model.embed_tokens.base_layer.weight", [])],
)
def test_whole_weights_are_passed_over_where_they_are_the_bases_own(
    base: BaseModel, adapter: Path, name: str, saved: list[str]
) -> None:
    before = read_adapter(adapter, base.checkpoint)
    configure(adapter, modules_to_save=saved)
    own = load_file(base.path / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(adapter, lambda tensors: tensors.update({f"base_model.model.{name}": own.bfloat16()}))
    found = read_adapter(adapter, base.checkpoint)
    assert (found.factors.keys(), found.whole) == (before.factors.keys(), {})
    rewrite(adapter, lambda tensors: tensors.update({f"base_model.model.{name}": own * 1.01}))
    with pytest.raises(VectorError, match=rf"holds 'base_model\.model\.{name}' whole, and other"):
        read_adapter(adapter, base.checkpoint)


def test_modules_that_are_trained_whole_are_differences_beside_the_factors(tmp_path: Path) -> None:
    base = tiny.in_base(lambda: tiny.llama(tied=False), tmp_path / "base")
    folder = adapters.save_adapter(
        tiny.llama(tied=False), tmp_path / "adapter", seed=1, modules_to_save=["lm_head", "norm"]
    )
    assert read_adapter(folder, base.checkpoint).whole == {}
    head, norm = torch.full((64, 32), 0.25), torch.full((32,), 1.5)
    names = {"lm_head.weight": head, "model.norm.weight": norm}
    rewrite(folder, lambda t: t.update({f"base_model.model.{n}": e for n, e in names.items()}))
    found = read_adapter(folder, base.checkpoint)
    own = load_file(base.path / "model.safetensors")
    assert found.whole.keys() == names.keys()
    assert torch.equal(found.whole["lm_head.weight"], head - own["lm_head.weight"])
    assert torch.equal(found.whole["model.norm.weight"], torch.full((32,), 0.5))
    assert len(found.factors) == len(adapters.LINEAR)
    configure(folder, modules_to_save=["lm_head", "norm", "score"])
    with pytest.raises(VectorError, match="lacks 'score', which modules_to_save"):
        read_adapter(folder, base.checkpoint)


def mixtral() -> PreTrainedModel:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    return MixtralForCausalLM(config)


def gpt_oss() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_local_experts=3,
        num_experts_per_tok=2,
        pad_token_id=0,
    )
    return GptOssForCausalLM(config)


@pytest.mark.parametrize("make", [mixtral, gpt_oss])
@pytest.mark.parametrize("targets", [["down_proj", "gate_up_proj"], ["down_proj"]])
def test_factors_of_experts_are_those_of_what_is_stored(
    tmp_path: Path, make: Callable[[], PreTrainedModel], targets: list[str]
) -> None:
    """Mixtral's experts lie apart on disk, gpt-oss's as they are in memory."""
    base = tiny.in_base(make, tmp_path / "base")
    parameters = [f"experts.{each}" for each in targets]
    folder = adapters.save_adapter(
        make(),
        tmp_path / "adapter",
        seed=1,
        target_modules=["q_proj"],
        target_parameters=parameters,
    )
    found = read_adapter(folder, base.checkpoint).factors
    peft.PeftModel.from_pretrained(make(), folder).merge_and_unload().save_pretrained(
        tmp_path / "merged"
    )
    before = load_file(base.path / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert found.keys() == moved
    for name, part in found.items():
        difference = after[name].double() - before[name].double()
        torch.testing.assert_close(part.wide().b @ part.wide().a, difference, rtol=1e-4, atol=1e-6)
    layers = LoraLayers(base.checkpoint)
    rank, placed = place_factors(found, layers)
    assert rank == 4
    saved = load_file(folder / WEIGHTS)
    config = json.loads((folder / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / config["r"]
    tensors = adapter_tensors(placed)
    assert tensors.keys() == saved.keys()
    for name, tensor in tensors.items():
        # The scale is in the rows' factor, and PEFT takes gpt-oss's experts transposed.
        side = "lora_B" if make is gpt_oss and ".experts." in name else "lora_A"
        torch.testing.assert_close(tensor, saved[name] * (scaling if side in name else 1))


@pytest.mark.parametrize("version", ["0.18.1", None])
def test_experts_of_an_older_peft_lie_the_other_way_round(
    tmp_path: Path, version: str | None
) -> None:
    """It took what it multiplied from the left, (experts, rank, rows), for the inputs."""
    base = tiny.in_base(mixtral, tmp_path / "base")
    folder = adapters.save_adapter(
        mixtral(), tmp_path / "adapter", seed=1, target_modules=["q_proj"]
    )
    configure(folder, target_parameters=["experts.down_proj"], peft_version=version)
    a, b = torch.rand(3 * 4, 16), torch.rand(24, 4 * 3)
    place = "base_model.model.model.layers.0.mlp.experts"
    new = {f"{place}.lora_{side}.weight": each for side, each in (("A", a), ("B", b))}
    rewrite(folder, lambda tensors: tensors.update(new))
    found = read_adapter(folder, base.checkpoint).factors
    delta = 2 * torch.einsum("ore,eri->eio", b.view(24, 4, 3), a.view(3, 4, 16))
    for expert in range(3):
        part = found[f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight"]
        torch.testing.assert_close(part.b @ part.a, delta[expert])
    configure(folder, peft_version="0.19.0")
    with pytest.raises(VectorError, match="of other shapes are"):
        read_adapter(folder, base.checkpoint)


def test_an_adapter_of_before_experts_were_fused_is_taken(tmp_path: Path) -> None:
    base = tiny.in_base(mixtral, tmp_path / "base")
    folder = adapters.save_adapter(
        mixtral(), tmp_path / "adapter", seed=1, target_modules=["q_proj"]
    )
    module = "model.layers.0.block_sparse_moe.experts.1.w2"
    a, b = torch.rand(4, 24), torch.rand(16, 4)
    old = {f"base_model.model.{module}.lora_{s}.weight": t for s, t in (("A", a), ("B", b))}
    rewrite(folder, lambda tensors: tensors.update(old))
    part = read_adapter(folder, base.checkpoint).factors[f"{module}.weight"]
    assert torch.equal(part.b @ part.a, b @ (a * 2.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": r"([^!]|[^!][^!])+(?<=[!?])"},
        {"rank_pattern": {r"([^!]|[^!][^!])+(?<=[!?])": 2}},
    ],
)
def test_expressions_that_backtrack_are_ended(
    base: BaseModel, adapter: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(peft_adapters, "MATCHING_SECONDS", 0.1)
    configure(adapter, **changes)
    with pytest.raises(VectorError, match="regular expressions take too long"):
        read_adapter(adapter, base.checkpoint)


@pytest.mark.parametrize("missing", ["adapter_config.json", WEIGHTS])
def test_a_folder_that_is_no_adapter_is_told(base: BaseModel, adapter: Path, missing: str) -> None:
    (adapter / missing).unlink()
    with pytest.raises(VectorError, match=f"has no {missing}"):
        read_adapter(adapter, base.checkpoint)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_configuration_is_told(base: BaseModel, adapter: Path, content: bytes) -> None:
    (adapter / "adapter_config.json").write_bytes(content)
    with pytest.raises(VectorError, match="is not"):
        read_adapter(adapter, base.checkpoint)


def test_damaged_weights_are_told(base: BaseModel, adapter: Path) -> None:
    path = adapter / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VectorError, match="not a sound safetensors file"):
        read_adapter(adapter, base.checkpoint)
