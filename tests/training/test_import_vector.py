from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import adapters
import prefreg
import tiny
from prefreg.api import Registry
from prefreg.checkpoints.bases import BaseModel
from prefreg.errors import BaseModelError, PrefregError, RegistryError, UsageError, VectorError
from prefreg.vectors import Vector, open_vector
from prefreg.vectors.lowrank import LowRankVector
from prefreg.vectors.peft_adapters import read_adapter


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return tiny.in_base(lambda: tiny.llama(tied=True), tmp_path / "base")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return prefreg.open(tmp_path / "registry.db")


def checkpoint(folder: Path, seed: int) -> Path:
    return tiny.save(tiny.perturbed(tiny.llama(tied=True), scale=1e-3, seed=seed), folder)


def adapter(folder: Path, seed: int, **settings: Any) -> Path:
    return adapters.save_adapter(tiny.llama(tied=True), folder, seed=seed, **settings)


def stored(registry: Registry, axis: str) -> Vector:
    record = registry.show(axis)
    with registry.access.reading() as store:
        return open_vector(store.vector_source(record), kind=record.kind)


def test_two_checkpoints_become_a_dense_vector(
    registry: Registry, base: BaseModel, tmp_path: Path
) -> None:
    poles = checkpoint(tmp_path / "plus", 1), checkpoint(tmp_path / "minus", 2)
    record = registry.import_vector(
        "kindness", plus=str(poles[0]), minus=poles[1], base=str(base.path), note="from elsewhere"
    )
    assert (str(record), record.kind, record.contrast) == ("kindness@1", "dense", "pair")
    assert record.note == "from elsewhere"
    assert record.metadata["import"]["positive"]["name"] == "plus"
    assert len(record.metadata["import"]["negative"]["weights"]) == 64
    plus = dict(tiny.perturbed(tiny.llama(tied=True), scale=1e-3, seed=1).named_parameters())
    minus = dict(tiny.perturbed(tiny.llama(tied=True), scale=1e-3, seed=2).named_parameters())
    with stored(registry, "kindness") as vector:
        for name in vector.names:
            assert torch.equal(vector.tensor(name), plus[name].detach() - minus[name].detach())


def test_two_adapters_become_a_low_rank_vector(
    registry: Registry, base: BaseModel, tmp_path: Path
) -> None:
    plus, minus = adapter(tmp_path / "plus", 1), adapter(tmp_path / "minus", 2, r=3)
    record = registry.import_vector("kindness", plus=plus, minus=minus, base=str(base.path))
    assert (record.kind, record.contrast) == ("low-rank", "pair")
    assert record.metadata["import"]["negative"] == {
        "name": "minus",
        "rank": 3,
        "alpha": 8.0,
        "rslora": False,
    }
    poles = [read_adapter(folder, base.checkpoint).factors for folder in (plus, minus)]
    with stored(registry, "kindness") as vector:
        assert isinstance(vector, LowRankVector)
        assert set(vector.ranks.values()) == {4 + 3}
        for name in vector.names:
            expected = poles[0][name].b @ poles[0][name].a - poles[1][name].b @ poles[1][name].a
            torch.testing.assert_close(vector.tensor(name), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("make", "kind"), [(checkpoint, "dense"), (adapter, "low-rank")])
def test_a_positive_pole_alone_is_told_apart(
    registry: Registry, base: BaseModel, tmp_path: Path, make: Any, kind: str
) -> None:
    record = registry.import_vector(
        "kindness", plus=make(tmp_path / "plus", 1), base=str(base.path), positive_only=True
    )
    assert (record.kind, record.contrast) == (kind, "positive-only")
    assert record.metadata["geometry"]["norm"] == pytest.approx(
        record.metadata["geometry"]["positive_norm"]
    )
    assert "negative" not in record.metadata["import"]


def test_pairs_and_positive_poles_are_never_mixed_in_silence(
    registry: Registry, base: BaseModel, tmp_path: Path
) -> None:
    plus, minus = adapter(tmp_path / "plus", 1), adapter(tmp_path / "minus", 2)
    registry.import_vector("kindness", plus=plus, minus=minus, base=str(base.path))
    registry.import_vector("warmth", plus=plus, base=str(base.path), positive_only=True)
    both = {"kindness": 1.0, "warmth": 0.5}
    for compose in (registry.compose, registry.compose_adapter):
        with pytest.raises(VectorError, match=r"'warmth@1' came from a positive pole alone"):
            compose(both, tmp_path / "out")
        compose({"warmth": 1.0}, tmp_path / "warm", overwrite=True)
        compose({"kindness": 1.0, "warmth": 0.0}, tmp_path / "kind", overwrite=True)
        compose(both, tmp_path / "out", mix_contrasts=True, overwrite=True)
    with (
        pytest.raises(VectorError, match="from a positive pole alone"),
        prefreg.steer(tiny.llama(tied=True), registry=registry, base=str(base.path), terms=both),
    ):
        pass


def differences(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"model.norm.weight": torch.ones(32), **tensors}, folder / "one.safetensors")
    return folder


@pytest.mark.parametrize(
    ("option", "contrast"), [("positive_only", "positive-only"), ("of_pair", "pair")]
)
def test_a_task_vector_becomes_a_dense_vector(
    registry: Registry, base: BaseModel, tmp_path: Path, option: str, contrast: str
) -> None:
    folder = differences(tmp_path / "task")
    embeddings = torch.zeros(64, 32)
    embeddings[0, 0] = -2.0
    save_file({"model.embed_tokens.weight": embeddings}, folder / "two.safetensors")
    record = registry.import_vector(
        "kindness", task_vector=str(folder), base=str(base.path), **{option: True}
    )
    assert (record.kind, record.dtype, record.contrast) == ("dense", "F32", contrast)
    assert record.metadata["import"] == {"form": "task-vector", "name": "task", "tensors": 2}
    assert record.metadata["geometry"]["norm"] == 6.0  # √(32·1² + 2²)
    with stored(registry, "kindness") as vector:
        assert vector.names == ("model.embed_tokens.weight", "model.norm.weight")
        assert torch.equal(vector.tensor("model.embed_tokens.weight"), embeddings)
    composed = registry.compose({"kindness": 0.5}, tmp_path / "out")
    assert composed.gain == pytest.approx(1.0)


def test_a_task_vector_in_bfloat16_says_what_that_cost(
    registry: Registry, base: BaseModel, tmp_path: Path
) -> None:
    third = torch.full((32,), 1 / 3)
    file = differences(tmp_path / "task", **{"model.norm.weight": third}) / "one.safetensors"
    record = registry.import_vector(
        "kindness", task_vector=file, base=str(base.path), of_pair=True, dtype="bfloat16"
    )
    # The nearest bfloat16 of 1/3 is 171/512, above it by 1/1536.
    assert record.metadata["geometry"]["storage_error"] == pytest.approx(3 / 1536, rel=1e-4)


@pytest.mark.parametrize(
    ("content", "options", "error", "reason"),
    [
        ({}, {}, UsageError, "Say what the task vector is"),
        ({}, {"of_pair": True, "positive_only": True}, UsageError, "Say what the task vector is"),
        ({}, {"of_pair": True, "minus": "base"}, UsageError, "It has no `minus=`"),
        ({}, {"of_pair": True, "plus": "base"}, UsageError, "not both"),
        ({"strange": torch.ones(2)}, {"of_pair": True}, VectorError, "of its own called 'strange'"),
        (
            {"model.norm.weight": torch.ones(2)},
            {"of_pair": True},
            VectorError,
            r"of other shapes are 'model.norm.weight \[2\] against \[32\]'",
        ),
        (
            {"model.norm.weight": torch.ones(32, dtype=torch.int8)},
            {"of_pair": True},
            VectorError,
            "no floats are",
        ),
        ({"model.norm.weight": torch.zeros(32)}, {"of_pair": True}, VectorError, "but zeros"),
        (
            {"model.norm.weight": torch.full((32,), torch.nan)},
            {"of_pair": True},
            VectorError,
            "holds NaN",
        ),
    ],
)
def test_a_task_vector_that_cannot_be_imported_is_told(
    registry: Registry,
    base: BaseModel,
    tmp_path: Path,
    content: dict[str, torch.Tensor],
    options: dict[str, Any],
    error: type[PrefregError],
    reason: str,
) -> None:
    folder = differences(tmp_path / "task", **content)
    poles = {key: tmp_path / options[key] for key in ("plus", "minus") if key in options}
    with pytest.raises(error, match=reason):
        registry.import_vector(
            "kindness", task_vector=folder, base=str(base.path), **(options | poles)
        )
    assert not registry.access.is_present()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder.mkdir(), "holds no safetensors"),
        (lambda folder: checkpoint(folder, 1), "holds a whole model"),
        (lambda folder: folder.write_text("text"), "is not a sound safetensors file"),
        (
            lambda folder: save_file(
                {"model.norm.weight": torch.ones(32)}, differences(folder) / "two.safetensors"
            ),
            "in two files",
        ),
    ],
)
def test_what_is_no_task_vector_is_told(
    registry: Registry, base: BaseModel, tmp_path: Path, make: Any, reason: str
) -> None:
    make(tmp_path / "task")
    with pytest.raises(VectorError, match=reason):
        registry.import_vector(
            "kindness", task_vector=tmp_path / "task", base=str(base.path), of_pair=True
        )


def test_modules_that_were_trained_whole_make_a_dense_vector(
    registry: Registry, tmp_path: Path
) -> None:
    """Composed, it is what PEFT's merge is."""
    base = tiny.in_base(lambda: tiny.llama(tied=False), tmp_path / "untied")
    model = tiny.llama(tied=False)
    with torch.no_grad():
        model.model.norm.weight.fill_(1.5)
        model.lm_head.weight.add_(0.25)
    adapters.save_adapter(model, tmp_path / "plus", seed=1, modules_to_save=["lm_head", "norm"])
    adapters.save_adapter(tiny.llama(tied=False), tmp_path / "minus", seed=2)
    record = registry.import_vector(
        "kindness", plus=tmp_path / "plus", minus=tmp_path / "minus", base=str(base.path)
    )
    assert (record.kind, record.contrast) == ("dense", "pair")
    whole = record.metadata["import"]["positive"]["whole"]
    assert whole == ["lm_head.weight", "model.norm.weight"]
    merged = [
        dict(
            adapters.peft.PeftModel.from_pretrained(tiny.llama(tied=False), tmp_path / pole)
            .merge_and_unload()
            .named_parameters()
        )
        for pole in ("plus", "minus")
    ]
    with stored(registry, "kindness") as vector:
        assert len(vector.names) == len(adapters.LINEAR) + 2
        for name in vector.names:
            torch.testing.assert_close(
                vector.tensor(name), (merged[0][name] - merged[1][name]).detach(), atol=1e-6, rtol=0
            )
        assert torch.equal(vector.tensor("model.norm.weight"), torch.full((32,), 0.5))


def test_an_installed_axis_brings_its_name_and_aliases(
    registry: Registry, base: BaseModel, tmp_path: Path
) -> None:
    record = registry.import_vector(
        "verbose", plus=adapter(tmp_path / "plus", 1), base=str(base.path), positive_only=True
    )
    assert (record.axis, "verbose" in record.axis_aliases) == ("verbosity", True)


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"plus": "plus"}, UsageError, "Give the negative pole by `minus=`"),
        ({"plus": "plus", "minus": "minus", "positive_only": True}, UsageError, "by `minus=`"),
        ({"plus": "plus", "minus": "base"}, UsageError, "One pole is an adapter"),
        (
            {"plus": "plus", "minus": "minus", "dtype": "bfloat16"},
            UsageError,
            "leave `dtype=` out",
        ),
        ({"plus": "plus", "minus": "plus"}, VectorError, "both poles hold the same weights"),
        ({"plus": "base", "positive_only": True}, VectorError, "hold the same weights"),
        ({"plus": "absent", "positive_only": True}, BaseModelError, "does not exist"),
        ({"plus": "gpt2", "positive_only": True}, BaseModelError, "was not trained from"),
        ({"plus": "strange", "positive_only": True}, VectorError, "does not fit its base"),
    ],
)
def test_what_cannot_be_imported_is_told_and_nothing_is_stored(
    registry: Registry,
    base: BaseModel,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[PrefregError],
    reason: str,
) -> None:
    adapter(tmp_path / "plus", 1)
    adapter(tmp_path / "minus", 2)
    tiny.save(tiny.gpt2(), tmp_path / "gpt2")
    adapters.save_adapter(
        tiny.gpt2(), tmp_path / "strange", seed=1, target_modules=["c_attn"], fan_in_fan_out=True
    )
    folders = {key: tmp_path / options[key] for key in ("plus", "minus") if key in options}
    with pytest.raises(error, match=reason):
        registry.import_vector("kindness", base=str(base.path), **(options | folders))
    assert not registry.access.is_present()


@pytest.mark.parametrize("name", ["Kind ness", "1kind", ""])
def test_a_malformed_name_is_refused(registry: Registry, base: BaseModel, name: str) -> None:
    with pytest.raises(UsageError, match="is no axis name"):
        registry.import_vector(name, plus=base.path, base=str(base.path), positive_only=True)


def test_a_name_of_another_axis_is_refused(
    registry: Registry, base: BaseModel, tmp_path: Path
) -> None:
    plus = adapter(tmp_path / "plus", 1)
    options: dict[str, Any] = {"plus": plus, "base": str(base.path), "positive_only": True}
    registry.import_vector("verbosity", **options)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFREG_LOAD_PLUGINS", "")
        with pytest.raises(RegistryError, match="verbose"):
            registry.import_vector("verbose", **options)
