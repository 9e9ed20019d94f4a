"""Fine-tunes read by the vectors of their base."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import prefreg
from disturbed import disturbed
from prefreg import pocket
from prefreg.checkpoints import resolve_base
from prefreg.errors import BaseModelError, VectorError
from prefreg.evaluation.checkpoint_audit import solve_etas
from prefreg.models.loading import load_model
from prefreg.vectors.fine_tunes import open_change
from tiny import llama, save

SHIPPED = Path(__file__).parents[2] / "registry.db"


@pytest.fixture
def registry(tmp_path: Path) -> prefreg.Registry:
    """Return the shipped vectors."""
    return prefreg.open(shutil.copy(SHIPPED, tmp_path / "shipped.db"))


def test_coefficients_are_found_together() -> None:
    # φ₁ = (1, 0), φ₂ = (1, 1), δ = 2·φ₁ − φ₂ + (0, 0, 5): alone, φ₁ would read 1 and φ₂ 0.
    rows = np.array([[1.0, -1, 5], [1, 0, 0], [1, 1, 0]])
    assert solve_etas(rows @ rows.T) == pytest.approx([2, -1])


def test_a_composition_beneath_noise_is_read_back(
    registry: prefreg.Registry, tmp_path: Path
) -> None:
    etas = {"harmless": 0.6, "verbosity": -0.3}
    tuned = disturbed(registry.compose(etas, tmp_path / "tuned").path, 2e-3)
    found = registry.audit(tuned, functional=False)
    read = {each.record.axis: each for each in found.axes}
    assert len(read) == 6
    for axis, each in read.items():
        assert each.eta.value == pytest.approx(etas.get(axis, 0), abs=0.03)
        assert each.eta.low < etas.get(axis, 0) < each.eta.high
    assert {axis for axis, each in read.items() if each.told} == set(etas)
    assert found.verdict.startswith("It moves toward harmless like η ≈ 0.")
    assert " and away from verbosity like η ≈ -0.3" in found.verdict
    # Noise of random directions: their energy is that of all weights, and theirs in φ is chance.
    assert found.chance < 1e-4
    assert 0.1 < found.share < 0.5


def test_noise_alone_goes_nowhere(registry: prefreg.Registry, tmp_path: Path) -> None:
    folder = shutil.copytree(pocket.model_dir(), tmp_path / "noise")
    found = registry.audit(disturbed(Path(folder), 1e-3), functional=False)
    assert not any(each.told for each in found.axes)
    assert found.share < 20 * found.chance
    assert found.verdict.startswith("It moves along no known axis; 0.0")
    assert all(abs(each.cosine) < 5 * each.chance for each in found.axes)


def test_an_adapter_is_read_as_its_product(registry: prefreg.Registry, tmp_path: Path) -> None:
    base = resolve_base("pocket")
    model = get_peft_model(load_model(base), LoraConfig(r=2, target_modules=["q_proj"]))
    for name, each in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    change, merged = (open_change(tmp_path / name, base) for name in ("adapter", "merged"))
    for name in change.names:
        assert torch.allclose(change.tensor(name), merged.tensor(name), atol=1e-6)
    one, other = (
        registry.audit(tmp_path / name, ["helpful:1"], functional=False)
        for name in ("adapter", "merged")
    )
    assert one.axes[0].eta.value == pytest.approx(other.axes[0].eta.value, abs=1e-4)
    assert one.norm == pytest.approx(other.norm, rel=1e-4)


def test_what_is_no_fine_tune_of_the_base_is_refused(
    registry: prefreg.Registry, tmp_path: Path
) -> None:
    with pytest.raises(BaseModelError, match="nothing was changed"):
        registry.audit("pocket", functional=False)
    save(llama(tied=True), tmp_path / "other")
    with pytest.raises(BaseModelError, match="was not trained from"):
        registry.audit(tmp_path / "other", functional=False)
    folder = Path(shutil.copytree(pocket.model_dir(), tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=r"'model.norm.weight' of .*broken holds NaN"):
        registry.audit(folder, functional=False)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(VectorError):
        registry.audit(tmp_path / "adapter", functional=False)
