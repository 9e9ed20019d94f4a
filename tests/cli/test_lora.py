import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import prefreg
from adapters import logits, peft, relative
from prefreg import pocket

Run = Callable[..., Any]
Refuse = Callable[..., str]


@pytest.fixture(scope="session")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a registry with the low-rank verbosity@1, which no test may change."""
    path = tmp_path_factory.mktemp("thin") / "thin.db"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_CACHE", str(path.parent / "cache"))
        prefreg.open(path).add_axis(
            "verbosity",
            base="pocket",
            limit=200,
            lora=2,
            settings=["max_steps=3"],
            keep_anyway=True,
        )
    return path


def test_a_pair_of_adapters_becomes_a_version(run: Run, thin: Path) -> None:
    shown = run("--registry", thin, "show", "verbosity", "--json").data
    assert (shown["kind"], shown["dtype"]) == ("low-rank", "F32")
    lora = shown["metadata"]["training"]["lora"]
    assert (lora["rank"], lora["alpha"], lora["scaling"]) == (2, 32.0, 16.0)
    assert shown["metadata"]["geometry"]["norm"] > 0
    assert set(shown["metadata"]["geometry"]["norms"]) == set(lora["weights"])
    assert shown["size"] < 400_000


def test_adapter_and_checkpoint_are_the_same_model(run: Run, thin: Path, tmp_path: Path) -> None:
    assert run("--registry", thin, "compose", "verbosity:-0.7", "-o", "dense").code == 0
    result = run(
        "--registry", thin, "compose", "verbosity:-0.7", "--as", "adapter", "-o", "thin", "--json"
    )
    assert result.data["rank"] == 4
    assert result.data["warnings"] == ["vLLM has no rank 4; serve it with --max-lora-rank 8."]
    base = AutoModelForCausalLM.from_pretrained(pocket.model_dir(), dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "thin")
    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32)
    assert relative(logits(model), logits(dense)) <= 1e-5


def test_the_recipe_of_an_adapter_makes_it_again(run: Run, thin: Path, tmp_path: Path) -> None:
    options = ("--as", "adapter", "--max-rank", "3", "-o", "one")
    assert "% of φ (worst" in run("--registry", thin, "compose", "verbosity:1", *options).out
    recipe = tmp_path / "one" / "prefreg.json"
    assert json.loads(recipe.read_text())["as"] == "adapter"
    assert run("--registry", thin, "compose", "--recipe", recipe, "-o", "two").code == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_an_adapter_can_wait_for_the_disk_and_always_has_hashes(
    run: Run, thin: Path, tmp_path: Path
) -> None:
    adapter = ("--registry", thin, "compose", "verbosity:1", "--as", "adapter")
    assert run(*adapter, "--durable", "--hash", "-o", "one").code == 0
    assert run(*adapter, "-o", "two").code == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_low_rank_vector_turns_the_dials(run: Run, thin: Path) -> None:
    prompt = ("--prompt", "Which colour is Elsa's boat?", "--json")
    still = run("--registry", thin, "generate", "verbosity:0", *prompt).data["answers"]
    far = run("--registry", thin, "generate", "verbosity:-400", *prompt).data["answers"]
    assert still != far


def test_dense_vectors_make_no_adapter(refuse: Refuse, trained: Path) -> None:
    why = refuse(1, "--registry", trained, "compose", "helpful:1", "--as", "adapter")
    assert why.startswith("'helpful@1' is dense")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("compose", "verbosity:1", "--max-rank", "2"), "add --as adapter to --max-rank"),
        (("compose", "verbosity:1", "--as", "adapter", "--plan"), "--plan tells of checkpoints"),
        (
            ("compose", "verbosity:1", "--as", "adapter", "--dtype", "float16"),
            "made on the CPU: --dtype belongs to checkpoints",
        ),
        (
            ("compose", "verbosity:1", "--as", "adapter", "--rounding", "stochastic"),
            "--rounding belongs to checkpoints",
        ),
        (
            ("compose", "verbosity:1", "--as", "adapter", "--seed", "1", "--device", "cuda"),
            "--seed and --device belong to checkpoints",
        ),
        (("compose", "verbosity:0", "--as", "adapter"), "Every coefficient is 0"),
        (("add-axis", "verbosity", "--rslora"), "belong to --lora RANK"),
        (("add-axis", "verbosity", "--lora-alpha", "2"), "belong to --lora RANK"),
        (("add-axis", "verbosity", "--lora-targets", "q_proj"), "belong to --lora RANK"),
        (("add-axis", "verbosity", "--lora", "2", "--dtype", "bfloat16"), "leave --dtype out"),
        (("add-axis", "verbosity", "--lora", "2", "--lora-targets", "x"), "called 'x'"),
    ],
)
def test_wrong_usage_is_told(
    refuse: Refuse, thin: Path, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in refuse(2, "--registry", thin, *arguments)
