"""Adapters on a base in 4 bits, by bitsandbytes: an extra, without which most is skipped."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

import worded
from axis_runs import train
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import resolve_base
from prefreg.data.pairs import build_pairs
from prefreg.errors import BaseModelError, UsageError
from prefreg.models.loading import load_model
from prefreg.models.log_probs import answer_log_probs
from prefreg.training.axis_request import AxisRequest, LoraOptions
from prefreg.training.guards import compare
from prefreg.training.settings import resolve_settings

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
needs_it = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed")
AXIS = Axis("red", "Red things.", {"none": lambda request: []}, label=lambda row: None)


def dequantised(model: PreTrainedModel, plain: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights of a plain model as the 4 bits of another say them."""
    functional: Any = importlib.import_module("bitsandbytes.functional")
    found = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        if state is not None:
            with torch.no_grad():
                found[name].copy_(functional.dequantize_4bit(weight.data, state))
    return {name: each.detach() for name, each in found.items()}


@needs_it
def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    config = worded.llama().config
    config.num_hidden_layers = 0
    worded.tokenizer().save_pretrained(tmp_path)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match="bitsandbytes quantises no layer of"):
        load_model(resolve_base(str(tmp_path)), four_bit=True)


@needs_it
def test_a_pole_is_the_dequantised_base_with_its_factors(tmp_path: Path) -> None:
    base = resolve_base(str(worded.save(tmp_path / "base")))
    pairs = build_pairs(worded.pairs(), axis_name="red", seed=0)
    settings = resolve_settings(
        assignments=["max_steps=6", "learning_rate=1e-2", "max_length=48"], lora=True
    )
    notes: list[str] = []
    made = train(
        base,
        AXIS,
        pairs,
        settings,
        lora=LoraOptions(2, 4.0),
        four_bit=True,
        keep_anyway=True,
        note=notes.append,
    )
    assert any("base lies in 4 bits (NF4)" in each for each in notes)
    assert made.run.precision.to_json()["weights"] == "nf4"
    assert {each.dtype for each in made.positive.weights.values()} == {torch.float32}
    plain = load_model(base)
    weights = dequantised(load_model(base, four_bit=True), plain)
    heldout = made.run.tokens.positive[made.run.tokens.report]
    before = answer_log_probs(plain, heldout)
    lora = made.run.lora
    assert lora is not None
    with torch.no_grad():
        for name, factors in lora.factors(made.positive.weights).items():
            weights[name] += factors.b @ factors.a
    report = compare(answer_log_probs(plain, heldout), before)
    assert made.positive.report.mean_margin > 0.1
    assert made.positive.report.mean_margin == pytest.approx(report.mean_margin, abs=1e-3)
    assert before.chosen.sum() != answer_log_probs(load_model(base), heldout).chosen.sum()


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_says_what_to_install(tmp_path: Path) -> None:
    base = resolve_base(str(worded.save(tmp_path / "base")))
    with pytest.raises(UsageError, match=r"pip install 'prefreg\[qlora\]'"):
        load_model(base, four_bit=True)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "`four_bit=` belong to `lora=` RANK"),
        ({"lora": 2, "shard": True}, "A base in 4 bits is not dealt out"),
    ],
)
def test_four_bits_need_factors_and_are_not_dealt_out(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        AxisRequest("red", four_bit=True, **asked).lora_options()
