import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    GitConfig,
    GitForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

import adapters
import tiny
from adapters import logits, peft, relative
from prefreg.checkpoints.bases import BaseModel
from prefreg.composition.adapter import write_adapter
from prefreg.composition.output import write_composition
from prefreg.composition.plan import Plan, PlannedTerm
from prefreg.errors import OutputError, UsageError, VectorError
from prefreg.vectors.lora_layers import LoraLayers
from prefreg.vectors.lowrank import Factors, subtract, write_low_rank
from prefreg.vectors.peft_adapters import read_adapter

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rslora": {"r": 8, "lora_alpha": 3, "use_rslora": True},
    "mixed": {
        "r": 2,
        "lora_alpha": 5,
        "rank_pattern": {"q_proj": 6},
        "alpha_pattern": {"o_proj": 1},
    },
    "attention": {"r": 3, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]},
}
"""Adapters that differ in rank, alpha, scaling and modules."""


def random_phi(base: BaseModel, *, rank: int, seed: int) -> dict[str, Factors]:
    """Make factors for every linear layer of a base."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    return {
        layer.weight: Factors(noise(layer.shape[0], rank), noise(rank, layer.shape[1]))
        for layer in LoraLayers(base.checkpoint).text.values()
    }


def term(
    axis: str, base: BaseModel, eta: float, phi: dict[str, Factors], path: Path
) -> PlannedTerm:
    write_low_rank(phi, path)
    return PlannedTerm(tiny.record(axis, base, kind="low-rank"), eta, path)


@pytest.fixture(scope="session")
def pairs(bases: dict[str, BaseModel], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Return a plan of two ± pairs of adapters that differ in everything."""
    folder, base = tmp_path_factory.mktemp("pairs"), bases["llama"]
    poles = {}
    for seed, (name, kind) in enumerate(KINDS.items()):
        model = tiny.llama(tied=False)
        adapters.save_adapter(model, folder / name, seed=seed, **kind)
        poles[name] = read_adapter(folder / name, base.checkpoint).factors
    one = subtract(poles["plain"], poles["rslora"])
    other = subtract(poles["mixed"], poles["attention"])
    terms = [
        term("helpful", base, 0.7, one, folder / "helpful.safetensors"),
        term("harmless", base, -1.3, other, folder / "harmless.safetensors"),
    ]
    return Plan(base, terms)


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model.train(False)


def with_adapter(base: BaseModel, folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = peft.PeftModel.from_pretrained(load(base.path), folder).train(False)
    return model


def test_the_adapter_and_the_dense_composition_are_the_same_model(
    pairs: Plan, tmp_path: Path
) -> None:
    written = write_adapter(pairs, tmp_path / "adapter")
    write_composition(pairs, tmp_path / "dense")
    expected = logits(load(tmp_path / "dense"))
    found = logits(with_adapter(pairs.base, tmp_path / "adapter"))
    assert relative(found, expected) <= 1e-5
    assert relative(expected, logits(load(pairs.base.path))) > 0.05
    ranks = {name.split(".")[-2]: rank for name, rank in written.ranks.items()}
    assert (ranks["q_proj"], ranks["v_proj"], ranks["up_proj"]) == (4 + 8 + 6 + 3, 17, 14)
    assert written.rank == 21


def test_peft_agrees_on_cat_and_is_wrong_on_linear(pairs: Plan, tmp_path: Path) -> None:
    """η⁺·A⁺ + η⁻·A⁻ by PEFT itself, with poles of one rank, as its `linear` needs."""
    base = pairs.base
    folders = [
        adapters.save_adapter(tiny.llama(tied=False), tmp_path / f"pole{seed}", seed=seed)
        for seed in (5, 6)
    ]
    phi = subtract(*(read_adapter(folder, base.checkpoint).factors for folder in folders))
    plan = Plan(base, [term("red", base, 0.8, phi, tmp_path / "red.safetensors")])
    write_adapter(plan, tmp_path / "adapter")
    ours = logits(with_adapter(base, tmp_path / "adapter"))
    start = logits(load(base.path))

    model = peft.PeftModel.from_pretrained(load(base.path), folders[0], adapter_name="plus")
    model.load_adapter(folders[1], adapter_name="minus")
    errors = {}
    for kind in ("cat", "linear"):
        model.add_weighted_adapter(
            ["plus", "minus"], [0.8, -0.8], adapter_name=kind, combination_type=kind
        )
        model.set_adapter(kind)
        errors[kind] = relative(logits(model.train(False)) - start, ours - start)
    assert errors["cat"] <= 1e-5
    assert errors["linear"] > 0.3


def test_weights_that_are_stored_the_other_way_round(tmp_path: Path) -> None:
    base = tiny.in_base(tiny.gpt2, tmp_path / "base")
    phi = random_phi(base, rank=3, seed=1)
    plan = Plan(base, [term("red", base, -2.0, phi, tmp_path / "red.safetensors")])
    write_adapter(plan, tmp_path / "adapter")
    write_composition(plan, tmp_path / "dense")
    expected = logits(load(tmp_path / "dense"))
    assert relative(logits(with_adapter(base, tmp_path / "adapter")), expected) <= 1e-5


def test_low_rank_and_dense_vectors_are_summed_in_one_checkpoint(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = bases["sharded"]
    thin, thick = random_phi(base, rank=2, seed=1), tiny.random_phi(base, seed=2)
    path = tiny.store(thick, tmp_path / "thick.safetensors")
    terms = [
        term("thin", base, -0.5, thin, tmp_path / "thin.safetensors"),
        PlannedTerm(tiny.record("thick", base), 1.5, path),
    ]
    write_composition(Plan(base, terms), tmp_path / "out")
    before, after = load(base.path).state_dict(), load(tmp_path / "out").state_dict()
    for name in before:
        expected = before[name] + 1.5 * thick[name]
        if name in thin:
            expected -= 0.5 * (thin[name].b @ thin[name].a)
        torch.testing.assert_close(after[name], expected)


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from([-2.0, -0.3, 0.0, 1e-3, 0.7, 1.0]), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_the_sum_of_the_parts_whatever_their_order_and_signs(
    tmp_path_factory: pytest.TempPathFactory,
    bases: dict[str, BaseModel],
    etas: list[float],
    random: Any,
) -> None:
    folder, base = tmp_path_factory.mktemp("sum"), bases["llama"]
    axes = [f"axis{number}" for number in range(len(etas))]
    phis = [random_phi(base, rank=seed + 1, seed=seed) for seed in range(len(etas))]
    terms = [
        term(axis, base, eta, phi, folder / f"{axis}.safetensors")
        for axis, eta, phi in zip(axes, etas, phis, strict=True)
    ]
    negated = [PlannedTerm(term.record, -term.eta, term.source) for term in terms]
    shuffled = random.sample(terms, len(terms))
    if not any(Plan(base, terms).active):
        with pytest.raises(UsageError, match="Every coefficient is 0"):
            write_adapter(Plan(base, terms), folder / "sum")
        return
    for name, plan in (("sum", terms), ("shuffled", shuffled), ("negated", negated)):
        write_adapter(Plan(base, plan), folder / name)
    read = {
        name: read_adapter(folder / name, base.checkpoint).factors
        for name in ("sum", "shuffled", "negated")
    }
    for weight, part in read["sum"].items():
        change = part.b.double() @ part.a.double()
        expected = sum(
            eta * (phi[weight].b.double() @ phi[weight].a.double())
            for eta, phi in zip(etas, phis, strict=True)
        )
        torch.testing.assert_close(change, expected, rtol=1e-5, atol=1e-7)
        opposite = read["negated"][weight]
        assert torch.equal(opposite.b.double() @ opposite.a.double(), -change)
        other = read["shuffled"][weight]
        assert torch.equal(other.b, part.b)
        assert torch.equal(other.a, part.a)


def test_recompression_says_what_it_lost(pairs: Plan, tmp_path: Path) -> None:
    exact = read_adapter_of(pairs, tmp_path / "exact")
    written = write_adapter(pairs, tmp_path / "small", max_rank=6)
    small = read_adapter(tmp_path / "small", pairs.base.checkpoint).factors
    assert written.rank == 6
    assert written.compression is not None
    lost = whole = 0.0
    for name, part in exact.items():
        wanted = part.b.double() @ part.a.double()
        error = float((small[name].b.double() @ small[name].a.double() - wanted).norm())
        assert written.compression.errors[name] == pytest.approx(
            error / float(wanted.norm()), rel=1e-4, abs=1e-6
        )
        lost, whole = lost + error**2, whole + float(wanted.norm()) ** 2
    assert written.compression.error == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
    assert 0.01 < written.compression.error < 0.9
    recipe = json.loads((tmp_path / "small" / "prefreg.json").read_text())
    assert recipe["compression"]["error"] == written.compression.error
    assert "Recompressed to rank 6" in (tmp_path / "small" / "README.md").read_text()


def read_adapter_of(plan: Plan, folder: Path) -> dict[str, Factors]:
    write_adapter(plan, folder)
    return read_adapter(folder, plan.base.checkpoint).factors


def test_a_bound_that_is_high_enough_loses_nothing(pairs: Plan, tmp_path: Path) -> None:
    written = write_adapter(pairs, tmp_path / "bound", max_rank=21)
    assert written.compression is not None
    assert written.compression.error == 0.0
    write_adapter(pairs, tmp_path / "free")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "bound" / weights).read_bytes() == (tmp_path / "free" / weights).read_bytes()


def test_the_same_plan_gives_the_same_bytes(pairs: Plan, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_adapter(pairs, tmp_path / name, max_rank=8)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "prefreg.json",
    }


def test_the_card_has_the_base_and_its_licence_like_that_of_a_checkpoint(
    pairs: Plan, tmp_path: Path
) -> None:
    shutil.copytree(pairs.base.path, tmp_path / "base")
    (tmp_path / "base/README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    base = tiny.resolve_base(str(tmp_path / "base"))
    write_adapter(Plan(base, pairs.terms), tmp_path / "out", max_rank=8)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.to_dict() == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "base_model_relation": "adapter",
        "license": "apache-2.0",
        "tags": ["prefreg", "preference-vectors", "lora"],
    }
    assert f"Base: `base`, weights `{base.fingerprint.weights}`" in card.text
    assert "Recompressed to rank 8: relative error " in card.text
    assert str(tmp_path) not in card.text


def test_the_configuration_scales_nothing_and_is_short(pairs: Plan, tmp_path: Path) -> None:
    write_adapter(pairs, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 21
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    # llama.cpp scales each module by lora_alpha and its own rank, and reads no pattern.
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.shape["_B." in name] for name, tensor in stored.items()} == {21}
    assert config["target_modules"] == sorted(adapters.LINEAR)
    assert config["base_model_name_or_path"] == str(pairs.base.path)


def test_dense_vectors_are_refused_with_what_to_do(
    bases: dict[str, BaseModel], make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = make_plan(bases["llama"], helpful=1.0)
    with pytest.raises(VectorError, match=r"'helpful@1' is dense.*leave `form=` adapter out"):
        write_adapter(plan, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_factors_of_head_and_embeddings_are_written_as_peft_reads_them(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = bases["llama"]
    model = tiny.llama(tied=False)
    folder = adapters.save_adapter(
        model, tmp_path / "pole", seed=3, target_modules=["embed_tokens", "lm_head", "q_proj"]
    )
    phi = read_adapter(folder, base.checkpoint).factors
    plan = Plan(base, [term("red", base, 0.5, phi, tmp_path / "red.safetensors")])
    write_adapter(plan, tmp_path / "adapter")
    write_composition(plan, tmp_path / "whole", dtype="float32")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    loaded = peft.PeftModel.from_pretrained(tiny.llama(tied=False), tmp_path / "adapter")
    assert relative(logits(loaded), logits(whole)) < 1e-5
    assert relative(logits(loaded), logits(tiny.llama(tied=False))) > 1e-3


def test_weights_that_are_no_layers_of_their_own_are_refused(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = bases["bf16"]  # whose head is tied
    name = "model.embed_tokens.weight"
    phi = {name: Factors(torch.ones(64, 1), torch.ones(1, 32))}
    plan = Plan(base, [term("red", base, 1.0, phi, tmp_path / "red.safetensors")])
    with pytest.raises(VectorError, match=f"'{name}' are no layers of their own"):
        write_adapter(plan, tmp_path / "adapter")


def test_what_peft_would_not_load_again_is_not_written(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1)
    base = tiny.in_base(lambda: MambaForCausalLM(config), tmp_path / "base")
    name = "backbone.layers.0.mixer.out_proj.weight"
    phi = {name: Factors(torch.ones(16, 1), torch.ones(1, 32))}
    plan = Plan(base, [term("red", base, 1.0, phi, tmp_path / "red.safetensors")])
    with pytest.raises(VectorError, match=rf"'{name}' could not be loaded again: PEFT refuses it"):
        write_adapter(plan, tmp_path / "adapter")


def test_layers_whose_short_names_others_have_are_named_in_full(tmp_path: Path) -> None:
    """Gemma 3n has a list of linear layers, whose last names are those of its decoder layers."""
    config = Gemma3nTextConfig(
        vocab_size=64,
        vocab_size_per_layer_input=64,
        hidden_size=16,
        hidden_size_per_layer_input=4,
        intermediate_size=[24, 24],
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        laurel_rank=4,
        num_kv_shared_layers=0,
        layer_types=["sliding_attention", "full_attention"],
        activation_sparsity_pattern=[0.0, 0.0],
    )
    base = tiny.in_base(lambda: Gemma3nForCausalLM(config), tmp_path / "base")
    name = "model.altup_projections.0.weight"
    phi = {name: Factors(torch.ones(16, 1), torch.ones(1, 16))}
    plan = Plan(base, [term("red", base, 1.0, phi, tmp_path / "red.safetensors")])
    write_adapter(plan, tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["target_modules"] == ["model.altup_projections.0"]
    model = Gemma3nForCausalLM.from_pretrained(base.path)
    before = dict(model.named_parameters())[name].detach().clone()
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    assert torch.equal(dict(merged.named_parameters())[name], before + 1)


def test_a_layer_whose_whole_name_others_end_with_is_named_by_an_expression(
    tmp_path: Path,
) -> None:
    """GIT calls its head `output`, as many a module within its layers."""
    config = GitConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    )
    base = tiny.in_base(lambda: GitForCausalLM(config), tmp_path / "base")
    phi = {"output.weight": Factors(torch.ones(32, 1), torch.ones(1, 16))}
    plan = Plan(base, [term("red", base, 1.0, phi, tmp_path / "red.safetensors")])
    write_adapter(plan, tmp_path / "adapter")
    model = GitForCausalLM.from_pretrained(base.path)
    before = model.output.weight.detach().clone()
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    assert torch.equal(merged.output.weight.detach(), before + 1)
    assert read_adapter(tmp_path / "adapter", base.checkpoint).factors.keys() == phi.keys()


def test_experts_have_no_bound_on_their_rank(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    base = tiny.in_base(lambda: MixtralForCausalLM(config), tmp_path / "base")
    name = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    phi = {name: Factors(torch.rand(24, 2), torch.rand(2, 16))}
    plan = Plan(base, [term("red", base, 1.0, phi, tmp_path / "red.safetensors")])
    with pytest.raises(VectorError, match=rf"experts, as '{name}', cannot be bound"):
        write_adapter(plan, tmp_path / "adapter", max_rank=1)
    write_adapter(plan, tmp_path / "adapter")
    model = MixtralForCausalLM.from_pretrained(base.path)
    experts = model.model.layers[0].mlp.experts
    before = experts.gate_up_proj.detach().clone()
    peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    moved = experts.gate_up_proj.detach() - before
    torch.testing.assert_close(moved[0, :24], phi[name].b @ phi[name].a, rtol=1e-4, atol=1e-5)
    assert not moved[0, 24:].any()
    assert not moved[1].any()


def test_a_sum_that_overflows_is_refused_and_leaves_nothing(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = bases["llama"]
    phi = random_phi(base, rank=1, seed=0)
    plan = Plan(base, [term("red", base, 3e38, phi, tmp_path / "red.safetensors")])
    phi = {name: part.scaled(100.0) for name, part in phi.items()}
    write_low_rank(phi, tmp_path / "red.safetensors")
    with pytest.raises(VectorError, match="overflow float32"):
        write_adapter(plan, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_folder_that_is_not_ours_is_kept(pairs: Plan, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            write_adapter(pairs, tmp_path / "mine", overwrite=overwrite)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    write_adapter(pairs, tmp_path / "ours")
    write_adapter(pairs, tmp_path / "ours", max_rank=2, overwrite=True)
    assert read_adapter(tmp_path / "ours", pairs.base.checkpoint).config.rank == 2


Q = "model.layers.0.self_attn.q_proj.weight"


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def planned(
    axis: str, base: BaseModel, eta: float, phi: dict[str, torch.Tensor], path: Path
) -> PlannedTerm:
    return PlannedTerm(tiny.record(axis, base), eta, tiny.store(phi, path))


def test_dense_vectors_of_low_rank_become_an_exact_adapter(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = bases["llama"]
    layers = LoraLayers(base.checkpoint).text.values()
    dense = {
        layer.weight: noise(layer.shape[0], 2, seed=1) @ noise(2, layer.shape[1], seed=2)
        for layer in layers
    }
    thin = {Q: Factors(noise(32, 3, seed=3), noise(3, 32, seed=4))}
    write_low_rank(thin, tmp_path / "thin")
    terms = [
        planned("dense", base, -0.8, dense, tmp_path / "dense"),
        PlannedTerm(tiny.record("thin", base, kind="low-rank"), 1.5, tmp_path / "thin"),
    ]
    written = write_adapter(Plan(base, terms), tmp_path / "adapter", max_rank=5)
    assert written.compression is not None
    assert written.compression.error <= 1e-6
    assert written.compression.left_out == {}
    write_composition(Plan(base, terms), tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(base.path)
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    assert relative(logits(model), logits(whole)) <= 1e-5


def test_what_is_lost_and_left_out_is_told(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    matrix, rest = torch.zeros(32, 32), torch.zeros(32)
    matrix[0, 0], matrix[1, 1] = 12.0, 3.0
    rest[0] = 4.0
    phi = {Q: matrix, "model.norm.weight": rest, "model.embed_tokens.weight": torch.zeros(64, 32)}
    base = bases["llama"]
    plan = Plan(base, [planned("dense", base, 1.0, phi, tmp_path / "dense")])
    written = write_adapter(plan, tmp_path / "out", max_rank=1)
    found = written.compression
    assert found is not None
    assert found.errors == {Q: pytest.approx(3 / 153**0.5, rel=1e-5)}  # √(12² + 3²)
    assert found.error == pytest.approx(5 / 13, rel=1e-5)  # √(3² + 4²) of √(12² + 3² + 4²)
    assert found.left_out == {"model.norm.weight": pytest.approx(16 / 25)}
    assert json.loads((tmp_path / "out/prefreg.json").read_text())["compression"] == found.to_json()
    assert "Left out: 1 weights" in (tmp_path / "out/README.md").read_text()


def test_dense_vectors_without_a_rank_or_without_layers_are_refused(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    base = bases["llama"]
    phi = {"model.norm.weight": torch.ones(32)}
    plan = Plan(base, [planned("dense", base, 1.0, phi, tmp_path / "dense")])
    with pytest.raises(VectorError, match=r"'dense@1' is dense.*with `max_rank=`"):
        write_adapter(plan, tmp_path / "out")
    with pytest.raises(UsageError, match="none of the linear layers"):
        write_adapter(plan, tmp_path / "out", max_rank=4)
    huge = {Q: torch.full((32, 32), 3e38)}
    plan = Plan(base, [planned("dense", base, 2.0, huge, tmp_path / "huge")])
    with pytest.raises(VectorError, match=f"'{Q}' overflows float32"):
        write_adapter(plan, tmp_path / "out", max_rank=4)
    assert not (tmp_path / "out").exists()
