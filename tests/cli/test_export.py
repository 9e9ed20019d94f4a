from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import adapters
import prefreg
import tiny
from adapters import logits, peft, relative
from prefreg import pocket

Run = Callable[..., Any]
Refuse = Callable[..., str]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_low_rank_vector_is_exported_exactly(run: Run, tmp_path: Path) -> None:
    base = tiny.save(tiny.llama(tied=True), tmp_path / "base")
    poles = {
        pole: adapters.save_adapter(tiny.llama(tied=True), tmp_path / pole, seed=seed)
        for seed, pole in enumerate(("plus", "minus"))
    }
    registry = tmp_path / "thin.db"
    prefreg.open(registry).import_vector("kindness", base=str(base), **poles)
    export = ("--registry", registry, "export", "kindness@1", "--as")
    found = run(*export, "adapter", "-o", "thin", "--json").data
    assert (found["as"], found["rank"], found["compression"]) == ("adapter", 8, None)
    assert run(*export, "checkpoint", "-o", "whole").code == 0
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "thin")
    whole = AutoModelForCausalLM.from_pretrained("whole")
    assert relative(logits(model), logits(whole)) <= 1e-5


def test_a_dense_vector_is_exported_at_a_rank_with_its_error(
    run: Run, trained: Path, tmp_path: Path
) -> None:
    export = ("--registry", trained, "export", "helpful", "--as", "adapter", "--rank")
    errors = []
    for rank in (2, 64):
        found = run(*export, rank, "-o", f"rank{rank}", "--json").data["compression"]
        assert found["max_rank"] == rank
        assert {"model.embed_tokens.weight", "model.norm.weight"} <= found["left_out"].keys()
        errors.append(found["error"])
        total = sum(found["left_out"].values())
        assert 0 < total < 1 if rank == 2 else total > 0.5
    assert errors[0] > errors[1] > 0
    shown = run(*export, 2, "-o", "rank2", "--overwrite").out
    assert "weights that are no linear layers" in shown
    recipe = ("compose", "--recipe", "rank2/prefreg.json", "-o", "again")
    assert run("--registry", trained, *recipe).code == 0
    for path in (tmp_path / "rank2").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_both_poles_are_exported_as_checkpoints(run: Run, trained: Path, tmp_path: Path) -> None:
    export = ("--registry", trained, "export", "helpful@1", "--as", "checkpoint", "-o")
    assert run(*export, "plus", "--json").data["formula"] == "base + 1·helpful@1"
    assert run(*export, "minus", "--sign", "minus").code == 0
    assert run("--registry", trained, "compose", "helpful@1:1", "-o", "composed").code == 0
    base, plus, minus = (
        weights(folder) for folder in (pocket.model_dir(), tmp_path / "plus", tmp_path / "minus")
    )
    for name, tensor in base.items():
        torch.testing.assert_close((plus[name] + minus[name]) / 2, tensor)
        assert torch.equal(plus[name], weights(tmp_path / "composed")[name])


def test_mergekit_is_handed_models_and_a_file_that_sum_to_the_composition(
    run: Run, trained: Path, tmp_path: Path
) -> None:
    terms = ("verbose:-0.3", "helpful@1:0.7")
    found = run("--registry", trained, "export", *terms, "--as", "mergekit", "-o", "m", "--json")
    assert found.data["models"] == ["helpful-1", "verbosity-1"]
    assert found.data["formula"] == "base + 0.7·helpful@1 - 0.3·verbosity@1"
    config = yaml.safe_load((tmp_path / "m" / found.data["config"]).read_text())
    assert config == {
        "merge_method": "task_arithmetic",
        "base_model": {"model": {"path": str(pocket.model_dir())}},
        "models": [
            {"model": {"model": {"path": "./helpful-1"}}, "parameters": {"weight": 0.7}},
            {"model": {"model": {"path": "./verbosity-1"}}, "parameters": {"weight": -0.3}},
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
        "out_dtype": "float32",
    }
    # What mergekit's task_arithmetic does with that: base + Σ weight·(model − base).
    merged = weights(pocket.model_dir())
    models = [weights(tmp_path / "m" / model) for model in found.data["models"]]
    recipe = ("compose", "--recipe", "m/prefreg.json", "-o", "composed")
    assert run("--registry", trained, *recipe).code == 0
    composed = weights(tmp_path / "composed")
    for name, base in merged.items():
        total = base + 0.7 * (models[0][name] - base) - 0.3 * (models[1][name] - base)
        torch.testing.assert_close(total, composed[name], rtol=0, atol=1e-6)


ADAPTER = ("--as", "adapter", "-o", "out")
CHECKPOINT = ("--as", "checkpoint", "-o", "out")
MERGEKIT = ("--as", "mergekit", "-o", "out")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("helpful", "-o", "out"), 2, "--as"),
        (("helpful", "--as", "adapter"), 2, "--output"),
        (ADAPTER, 2, "Missing argument"),
        (("helpful", *ADAPTER), 1, "'helpful@1' is dense"),
        (("helpful", *ADAPTER, "--rank", "0"), 2, "--rank"),
        (("helpful", "verbosity", *ADAPTER), 2, "is of one version: give one AXIS[@V]"),
        (("helpful:1", *CHECKPOINT), 2, "'helpful:1' does not begin with an axis name"),
        (("kindness", *CHECKPOINT), 1, "kindness"),
        (("helpful@9", *CHECKPOINT), 1, "helpful"),
        (("helpful", *ADAPTER, "--sign", "minus"), 2, "--sign belongs to --as checkpoint"),
        (("helpful", *CHECKPOINT, "--rank", "4"), 2, "--max-rank belongs to --as adapter"),
        (("helpful:1", *MERGEKIT, "--dtype", "float16"), 2, "--dtype belongs to --as checkpoint"),
        (("helpful", *MERGEKIT), 2, "'helpful' is not a term"),
        (("helpful:0", *MERGEKIT), 2, "nothing for mergekit to merge"),
        (("helpful:1", "helpful:2", *MERGEKIT), 2, "named twice"),
    ],
)
def test_wrong_usage_is_told(
    refuse: Refuse, trained: Path, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    assert reason in refuse(code, "--registry", trained, "export", *arguments)


@pytest.mark.parametrize("form", [(*ADAPTER, "--rank", "2"), CHECKPOINT, MERGEKIT])
def test_a_folder_that_is_not_ours_is_kept(
    refuse: Refuse, trained: Path, tmp_path: Path, form: tuple[str, ...]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    what = "helpful:1" if "mergekit" in form else "helpful"
    assert "is not empty" in refuse(1, "--registry", trained, "export", what, *form)
    assert "not replaced" in refuse(1, "--registry", trained, "export", what, *form, "--overwrite")
