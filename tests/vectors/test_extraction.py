import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from prefreg.checkpoints.bases import BaseModel
from prefreg.checkpoints.checkpoint import Checkpoint
from prefreg.errors import BaseModelError, OutputError, VectorError
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.extraction import Extraction, extract
from prefreg.vectors.tensors import CheckpointTensors, MemoryTensors


def tensors(*values: float) -> MemoryTensors:
    numbers = torch.tensor(values, dtype=torch.float32)
    return MemoryTensors({"a": numbers[:2], "b": numbers[2:]})


def extract_folders(
    positive: Checkpoint, negative: Checkpoint, base: Checkpoint, destination: Path
) -> Extraction:
    return extract(
        positive=CheckpointTensors.of_pole(positive, base),
        negative=CheckpointTensors.of_pole(negative, base),
        reference=CheckpointTensors(base),
        destination=destination,
    )


def difference(
    positive: MemoryTensors, negative: MemoryTensors, path: Path, dtype: str = "F32"
) -> Extraction:
    return extract(
        positive=positive, negative=negative, reference=None, destination=path, dtype=dtype
    )


def pole(folder: Path, *, seed: int, dtype: torch.dtype = torch.float32) -> Checkpoint:
    model = tiny.perturbed(tiny.llama(tied=True), scale=1e-3, seed=seed)
    return Checkpoint.open(tiny.save(model.to(dtype), folder))


def test_a_vector_worked_by_hand(tmp_path: Path) -> None:
    found = extract(
        positive=tensors(1.0, 2.0, 3.0, 4.0),
        negative=tensors(1.0, -1.0, 3.0, 0.0),
        reference=tensors(1.0, 1.0, 3.0, 3.0),
        destination=tmp_path / "phi",
    )
    with DenseVector.open(tmp_path / "phi") as phi:
        assert phi.tensor("a").tolist() == [0.0, 3.0]
        assert phi.tensor("b").tolist() == [0.0, 4.0]
    assert (found.norm, found.norms) == (5.0, {"a": 3.0, "b": 4.0})
    assert found.zeros == 0.5
    # φ₊ = (0, 1, 0, 1) and φ₋ = (0, −2, 0, −3).
    assert (found.positive_norm, found.negative_norm) == (math.sqrt(2), math.sqrt(13))
    assert found.cosine_poles == pytest.approx(-5 / math.sqrt(26), abs=1e-15)
    assert found.storage_error is None
    assert found.size == (tmp_path / "phi").stat().st_size


def test_switched_poles_give_the_negated_vector(tmp_path: Path, base: BaseModel) -> None:
    plus, minus = pole(tmp_path / "plus", seed=1), pole(tmp_path / "minus", seed=2)
    folders = {"base": base.checkpoint}
    one = extract_folders(positive=plus, negative=minus, destination=tmp_path / "one", **folders)
    other = extract_folders(
        positive=minus, negative=plus, destination=tmp_path / "other", **folders
    )
    assert (one.norm, one.cosine_poles) == (other.norm, other.cosine_poles)
    with DenseVector.open(tmp_path / "one") as a, DenseVector.open(tmp_path / "other") as b:
        for name in a.names:
            assert torch.equal(a.tensor(name), -b.tensor(name))


def test_equal_poles_in_memory_and_on_disk_give_equal_files(
    tmp_path: Path, base: BaseModel
) -> None:
    plus, minus = pole(tmp_path / "plus", seed=1), pole(tmp_path / "minus", seed=2)
    on_disk = extract_folders(
        positive=plus, negative=minus, base=base.checkpoint, destination=tmp_path / "one"
    )
    in_memory = extract(
        positive=MemoryTensors(load_file(plus.path / "model.safetensors")),
        negative=MemoryTensors(load_file(minus.path / "model.safetensors")),
        reference=CheckpointTensors(base.checkpoint),
        destination=tmp_path / "other",
    )
    assert on_disk == in_memory
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_low_precision_poles_are_subtracted_in_float32(tmp_path: Path, base: BaseModel) -> None:
    plus = pole(tmp_path / "plus", seed=1, dtype=torch.bfloat16)
    minus = pole(tmp_path / "minus", seed=2, dtype=torch.bfloat16)
    found = extract_folders(
        positive=plus, negative=minus, base=base.checkpoint, destination=tmp_path / "phi"
    )
    name = "model.embed_tokens.weight"
    expected = (
        load_file(plus.path / "model.safetensors")[name].float()
        - load_file(minus.path / "model.safetensors")[name].float()
    )
    with DenseVector.open(tmp_path / "phi") as phi:
        assert torch.equal(phi.tensor(name), expected)
    assert found.zeros > 0


def test_bfloat16_storage_tells_what_it_costs(tmp_path: Path) -> None:
    # 1 + 2⁻⁸ lies halfway between two bfloat16 numbers and goes to the even one, 1.
    found = difference(tensors(1 + 2**-8, 0, 0, 0), tensors(0, 0, 0, 0), tmp_path / "phi", "BF16")
    with DenseVector.open(tmp_path / "phi") as phi:
        assert phi.tensor("a").tolist() == [1.0, 0.0]
    assert found.storage_error == pytest.approx(2**-8 / (1 + 2**-8))


def test_large_tensors_are_measured_block_by_block(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    plus = {"a": torch.randn(3, 100_001, generator=generator)}
    minus = {"a": torch.randn(3, 100_001, generator=generator)}
    found = difference(MemoryTensors(plus), MemoryTensors(minus), tmp_path / "phi")
    with DenseVector.open(tmp_path / "phi") as phi:
        assert torch.equal(phi.tensor("a"), plus["a"] - minus["a"])
    assert found.norm == pytest.approx(float((plus["a"] - minus["a"]).double().norm()))


def test_poles_that_did_not_move_apart_are_refused(tmp_path: Path) -> None:
    same = tensors(1.0, 2.0, 3.0, 4.0)
    with pytest.raises(VectorError, match="did not move"):
        difference(same, same, tmp_path / "phi")
    assert list(tmp_path.iterdir()) == []


def test_a_pole_that_is_the_base_has_no_cosine(tmp_path: Path) -> None:
    base, plus = tensors(1.0, 1.0, 1.0, 1.0), tensors(2.0, 1.0, 1.0, 1.0)
    found = extract(positive=plus, negative=base, reference=base, destination=tmp_path / "phi")
    assert (found.positive_norm, found.negative_norm, found.cosine_poles) == (1.0, 0.0, None)


@pytest.mark.parametrize(
    ("positive", "negative", "message"),
    [
        ((1.0, math.nan, 0, 0), (0, 0, 0, 0), "'a' of the positive pole holds NaN"),
        ((1.0, 0, 0, 0), (0, 0, 0, math.inf), "'b' of the negative pole holds NaN"),
        ((3e38, 0, 0, 0), (-3e38, 0, 0, 0), "The difference of the poles overflows in 'a'"),
    ],
)
def test_values_that_are_no_numbers_name_their_tensor(
    tmp_path: Path, positive: tuple[float, ...], negative: tuple[float, ...], message: str
) -> None:
    with pytest.raises(VectorError, match=message):
        difference(tensors(*positive), tensors(*negative), tmp_path / "phi")
    assert list(tmp_path.iterdir()) == []


def test_poles_with_other_names_are_refused(tmp_path: Path) -> None:
    one, other = MemoryTensors({"a": torch.ones(1)}), MemoryTensors({"b": torch.ones(1)})
    with pytest.raises(VectorError, match=r"^The positive pole and the negative pole do not match"):
        difference(one, other, tmp_path / "phi")
    with pytest.raises(VectorError, match=r"^The poles and the base do not match: the base lacks"):
        extract(positive=one, negative=one, reference=other, destination=tmp_path / "phi")


def test_a_pole_of_another_size_is_refused(tmp_path: Path, base: BaseModel) -> None:
    other = Checkpoint.open(tiny.save(tiny.gpt2(), tmp_path / "gpt2"))
    with pytest.raises(BaseModelError, match="gpt2 was not trained from"):
        extract_folders(
            positive=other,
            negative=base.checkpoint,
            base=base.checkpoint,
            destination=tmp_path / "phi",
        )


def test_a_pole_that_carries_its_tied_head_is_accepted(tmp_path: Path, base: BaseModel) -> None:
    plus = pole(tmp_path / "plus", seed=1)
    folder = Path(shutil.copytree(plus.path, tmp_path / "double"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    results = [
        extract_folders(
            positive=positive,
            negative=base.checkpoint,
            base=base.checkpoint,
            destination=tmp_path / "phi",
        )
        for positive in (plus, Checkpoint.open(folder))
    ]
    assert results[0] == results[1]


def test_a_quantised_checkpoint_has_no_weights_to_take(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseModelError, match="holds no float weights for 'a'"):
        CheckpointTensors(Checkpoint.open(tmp_path), {"x": "a"})


def test_a_destination_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent/phi cannot be written: No such file"):
        difference(tensors(1, 0, 0, 0), tensors(0, 0, 0, 0), tmp_path / "absent" / "phi")
