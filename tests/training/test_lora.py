import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import MambaConfig, MambaForCausalLM, MixtralConfig, MixtralForCausalLM

import adapters
from axis_runs import train
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.data.pairs import PairSet
from prefreg.errors import GateError, UsageError, VectorError
from prefreg.models.conversion import open_conversion
from prefreg.models.loading import load_model
from prefreg.training.axis_request import AxisRequest, LoraOptions
from prefreg.training.lora import Lora, choose_layers
from prefreg.training.pair import TrainedPair
from prefreg.training.resources import estimate_memory
from prefreg.training.settings import Settings, resolve_settings
from prefreg.vectors.extraction import extract_factors
from prefreg.vectors.lowrank import LowRankVector, subtract

OPTIONS = LoraOptions(rank=3, alpha=6.0, rslora=True)


@pytest.fixture(scope="session")
def quick(settings: Settings) -> Settings:
    """Return settings under which LoRA moves within seconds."""
    return Settings({**settings.values, "learning_rate": 1e-2}, frozenset())


@pytest.fixture(scope="session")
def result(base: BaseModel, axis: Axis, pairs: PairSet, quick: Settings) -> TrainedPair:
    return train(base=base, axis=axis, pairs=pairs, settings=quick, seed=0, lora=OPTIONS)


def chosen(result: TrainedPair) -> Lora:
    assert result.run.lora is not None
    return result.run.lora


def test_each_pole_learns_its_side_from_the_base(result: TrainedPair) -> None:
    for pole in (result.positive, result.negative):
        assert pole.curve[0].loss == pytest.approx(0.693147, abs=1e-5)  # the base is the reference
        assert pole.report.accuracy > 0.9
        assert pole.failures == ()


def test_only_the_factors_of_linear_layers_are_trained(result: TrainedPair) -> None:
    lora = chosen(result)
    assert {layer.module.rpartition(".")[2] for layer in lora.layers} == set(adapters.LINEAR)
    for pole in (result.positive, result.negative):
        assert all(".lora_A." in name or ".lora_B." in name for name in pole.weights)
        assert len(pole.weights) == 2 * len(lora.layers)
        assert sum(tensor.numel() for tensor in pole.weights.values()) == lora.parameters


def test_both_poles_begin_with_the_same_factors(
    base: BaseModel, axis: Axis, pairs: PairSet, quick: Settings
) -> None:
    """Where nothing is learnt, the factors are those of the beginning."""
    still = Settings({**quick.values, "learning_rate": 1e-30, "max_steps": 1}, frozenset())
    result = train(
        base=base, axis=axis, pairs=pairs, settings=still, seed=0, lora=OPTIONS, keep_anyway=True
    )
    for name, weight in result.positive.weights.items():
        torch.testing.assert_close(weight, result.negative.weights[name])
        if ".lora_A." in name:
            assert weight.abs().sum() > 0


def test_the_stored_vector_is_what_the_adapters_do(
    result: TrainedPair, base: BaseModel, tmp_path: Path
) -> None:
    lora = chosen(result)
    poles = [lora.factors(pole.weights) for pole in (result.positive, result.negative)]
    found = extract_factors(positive=poles[0], negative=poles[1], destination=tmp_path / "phi")
    layer = lora.layers[0]
    products = []
    for pole in (result.positive, result.negative):
        a, b = (pole.weights[f"{layer.module}.lora_{side}.default.weight"] for side in "AB")
        products.append(6.0 / 3**0.5 * (b.double() @ a.double()))
    with LowRankVector.open(tmp_path / "phi") as vector:
        assert set(vector.ranks.values()) == {6}
        torch.testing.assert_close(
            vector.tensor(layer.weight).double(), products[0] - products[1], rtol=1e-5, atol=1e-8
        )
        whole = torch.cat([vector.tensor(name).double().flatten() for name in vector.names])
    assert found.norm == pytest.approx(float(whole.norm()), rel=1e-6)
    assert found.cosine_poles is not None
    assert found.cosine_poles < 0
    assert found.zeros is None


def test_equal_adapters_have_no_direction(result: TrainedPair, tmp_path: Path) -> None:
    pole = chosen(result).factors(result.positive.weights)
    with pytest.raises(VectorError, match="both poles hold the same weights"):
        extract_factors(positive=pole, negative=pole, destination=tmp_path / "phi")
    assert not list(tmp_path.glob("phi*"))


def test_the_same_seed_gives_the_same_factors(
    result: TrainedPair, base: BaseModel, axis: Axis, pairs: PairSet, quick: Settings
) -> None:
    again = train(base=base, axis=axis, pairs=pairs, settings=quick, seed=0, lora=OPTIONS)
    for name, weight in result.negative.weights.items():
        assert torch.equal(weight, again.negative.weights[name])
    phi = [
        subtract(chosen(r).factors(r.positive.weights), chosen(r).factors(r.negative.weights))
        for r in (result, again)
    ]
    assert all(torch.equal(part.a, phi[1][name].a) for name, part in phi[0].items())


def test_a_pole_that_does_not_move_is_refused(
    base: BaseModel, axis: Axis, pairs: PairSet, quick: Settings
) -> None:
    still = Settings({**quick.values, "learning_rate": 1e-30, "max_steps": 1}, frozenset())
    with pytest.raises(GateError, match="number of changed tensors is 0"):
        train(base=base, axis=axis, pairs=pairs, settings=still, seed=0, lora=OPTIONS)


def test_targets_choose_layers(base: BaseModel) -> None:
    lora = choose_layers(dataclasses.replace(OPTIONS, targets=("q_proj", "1.mlp.up_proj")), base)
    assert [layer.module for layer in lora.layers] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    ]


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "proj", "q_prj"])
def test_a_target_that_is_no_inner_linear_layer_is_refused(base: BaseModel, target: str) -> None:
    with pytest.raises(UsageError, match=f"no layer called '{target}'.*It has down_proj"):
        choose_layers(dataclasses.replace(OPTIONS, targets=("q_proj", target)), base)


def small_moe(tokenizer_from: BaseModel, folder: Path) -> BaseModel:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    for file in tokenizer_from.path.glob("token*"):
        shutil.copy(file, folder)
    return resolve_base(str(folder))


def test_experts_and_embeddings_are_trained_by_factors_of_their_own(
    base: BaseModel, axis: Axis, pairs: PairSet, quick: Settings, tmp_path: Path
) -> None:
    """What is stored of the poles is what PEFT's merge of them is on disk."""
    moe = small_moe(base, tmp_path / "base")
    targets = ("gate_up_proj", "experts.down_proj", "embed_tokens", "q_proj")
    options = dataclasses.replace(OPTIONS, targets=targets)
    few = Settings({**quick.values, "max_steps": 2, "router_aux_loss_coef": 0.0}, frozenset())
    result = train(
        base=moe, axis=axis, pairs=pairs, settings=few, seed=0, lora=options, keep_anyway=True
    )
    lora = chosen(result)
    assert sum(each.numel() for each in result.positive.weights.values()) == lora.parameters
    on_disk = load_file(moe.path / "model.safetensors")
    for pole in (result.positive, result.negative):
        factors = lora.factors(pole.weights)
        model = inject_adapter_in_model(lora.config(), load_model(moe))
        assert not model.load_state_dict(pole.weights, strict=False).unexpected_keys
        for module in reversed(list(model.modules())):
            if isinstance(module, BaseTunerLayer):
                module.merge()
        merged = {
            name.replace(".base_layer", ""): each.detach()
            for name, each in model.named_parameters()
            if "lora_" not in name
        }
        plain = open_conversion(load_model(moe), moe).store(merged)
        moved = {name for name in on_disk if not torch.equal(plain[name], on_disk[name])}
        assert moved == factors.keys()
        assert {"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"} < moved
        assert sum(".experts." in name for name in moved) == 2 * 3 * 3
        for name in moved:
            torch.testing.assert_close(
                factors[name].b @ factors[name].a, plain[name] - on_disk[name], rtol=1e-4, atol=1e-6
            )


def test_what_lora_leaves_out_is_told(base: BaseModel, tmp_path: Path) -> None:
    assert choose_layers(OPTIONS, base).notes == ()
    lora = choose_layers(OPTIONS, small_moe(base, tmp_path / "moe"))
    assert lora.notes == (
        "LoRA leaves out 'model.layers.*.mlp.experts.down_proj', "
        "'model.layers.*.mlp.experts.gate_up_proj': stacks of experts (--lora-targets "
        "down_proj,gate_up_proj chooses them).",
        "LoRA leaves out 'model.layers.*.mlp.gate.weight': they are no linear layers.",
    )
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    mamba = resolve_base(str(tmp_path / "mamba"))
    (note, _) = choose_layers(OPTIONS, mamba).notes
    assert "'backbone.layers.*.mixer.out_proj': PEFT refuses it" in note
    with pytest.raises(UsageError, match=r"no layer called 'out_proj'.*PEFT refuses it.*It has"):
        choose_layers(dataclasses.replace(OPTIONS, targets=("out_proj",)), mamba)
    with pytest.raises(UsageError, match=r"'lm_head'.*past any adapter on it"):
        choose_layers(dataclasses.replace(OPTIONS, targets=("lm_head",)), base)


def test_lora_learns_faster_unless_told_otherwise() -> None:
    assert resolve_settings(lora=True).values["learning_rate"] == pytest.approx(1e-5)
    quick = resolve_settings(lora=True, preset="quick").values["learning_rate"]
    assert quick == pytest.approx(1e-4)
    told = resolve_settings(lora=True, assignments=["learning_rate=3e-6"])
    assert told.values["learning_rate"] == 3e-6


def test_lora_needs_less_memory(base: BaseModel, settings: Settings) -> None:
    config = load_model(base).config
    whole = estimate_memory(config, 1000, settings, 48)
    thin = estimate_memory(config, 1000, settings, 48, trained=10)
    assert whole.model == 16_000
    assert thin.model == 4 * 1010 + 12 * 10
    assert (whole.copies, thin.copies) == (12_000, 120)


def test_a_base_has_a_rank_of_its_own() -> None:
    def options(**asked: object) -> LoraOptions | None:
        return AxisRequest("kind", **asked).lora_options(8)

    assert options() == LoraOptions(8, 32.0)
    assert options(lora=4) == LoraOptions(4, 32.0)
    assert options(lora_alpha=3.0) == LoraOptions(8, 3.0)
    for whole in ({"lora": 0}, {"preset": "quick"}, {"plus": "pole"}, {"minus": "pole"}):
        assert options(**whole) is None
    assert AxisRequest("kind").lora_options() is None
    with pytest.raises(UsageError, match=r"of LoRA \(rank 8\).*`dtype=` out, or .* by `lora=` 0"):
        options(dtype="bfloat16")
    with pytest.raises(UsageError, match="0 or more"):
        options(lora=-1)
