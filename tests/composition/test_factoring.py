import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from adapters import logits, peft, relative
from prefreg.checkpoints.bases import BaseModel
from prefreg.composition.adapter import write_adapter
from prefreg.composition.output import write_composition
from prefreg.composition.plan import Plan, PlannedTerm
from prefreg.errors import UsageError, VectorError
from prefreg.vectors.lowrank import Factors, write_low_rank
from prefreg.vectors.peft_adapters import linear_layers

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
    layers = linear_layers(base.checkpoint).values()
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
    with pytest.raises(VectorError, match=r"'dense@1' are dense.*with --max-rank"):
        write_adapter(plan, tmp_path / "out")
    with pytest.raises(UsageError, match="none of the linear layers"):
        write_adapter(plan, tmp_path / "out", max_rank=4)
    huge = {Q: torch.full((32, 32), 3e38)}
    plan = Plan(base, [planned("dense", base, 2.0, huge, tmp_path / "huge")])
    with pytest.raises(VectorError, match=f"'{Q}' overflows float32"):
        write_adapter(plan, tmp_path / "out", max_rank=4)
    assert not (tmp_path / "out").exists()
