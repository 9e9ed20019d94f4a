"""Vectors moved to another fine-tune of the same architecture."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import prefreg
from disturbed import disturbed, renumbered
from prefreg.errors import DataError, GateError, UsageError, VectorError
from prefreg.vectors import open_vector
from tiny import llama, save

pytestmark = pytest.mark.slow
FEW = {"pairs": 24}


@pytest.fixture
def own(trained: Path, tmp_path: Path) -> prefreg.Registry:
    """Return a copy of the trained registry that the test may change."""
    return prefreg.open(shutil.copy(trained, tmp_path / "own.db"))


def test_a_near_base_keeps_the_effect(own: prefreg.Registry, tmp_path: Path) -> None:
    near = disturbed(tmp_path / "near", 1e-3)
    moved = own.transport("helpful@1", str(near), **FEW)
    before = own.show("helpful", "1")
    assert (moved.number, moved.sha256, moved.kind) == (2, before.sha256, before.kind)
    assert moved.base.weights != before.base.weights
    found = moved.metadata["transport"]
    assert found["of"] == "helpful@1"
    assert found["base"]["weights"] == before.base.weights
    assert found["margin"]["kept"]["value"] == pytest.approx(1, abs=0.2)
    assert found["margin"]["kept"]["low"] < 1 < found["margin"]["kept"]["high"] + 0.2
    # It composes there, and the version that it came from does not.
    composed = own.compose({"helpful": 1}, tmp_path / "out", base=str(near))
    assert composed.base == str(near)
    # Its own version of that base is no run that was done before.
    from prefreg.training.add_axis import prepare
    from prefreg.training.axis_request import AxisRequest
    from prefreg.training.axis_run import find_stored

    request = AxisRequest("helpful", base=str(near), data="pocket", limit=200)
    assert find_stored(own.access, prepare(own.access, request, None)) is None


def test_signs_of_the_gradient_choose_the_weights(own: prefreg.Registry, tmp_path: Path) -> None:
    near = disturbed(tmp_path / "near", 1e-3)
    moved = own.transport("helpful@1", str(near), method="gradient-sign", **FEW)
    with own.access.reading() as store:
        vectors = [
            open_vector(store.vector_source(record), kind=record.kind)
            for record in (own.show("helpful", "1"), moved)
        ]
    phi, masked = (
        torch.cat([each.tensor(name).flatten() for name in each.names]) for each in vectors
    )
    kept = masked != 0
    assert 0.3 < float(kept.double().mean()) < 0.7
    assert masked.norm() == pytest.approx(float(phi.norm()), rel=1e-3)
    scale = float(masked.norm() / phi[kept].norm())
    assert torch.allclose(masked[kept], scale * phi[kept], rtol=1e-4)
    # Every weight that is left raises the margin.
    assert moved.metadata["transport"]["margin"]["after"]["value"] > 0
    assert moved.kind == "dense"
    assert moved.metadata["geometry"]["norm"] == pytest.approx(float(phi.norm()), rel=1e-3)


def test_another_basin_is_refused_and_nothing_stored(own: prefreg.Registry, tmp_path: Path) -> None:
    far = renumbered(tmp_path / "far")
    with pytest.raises(GateError, match=r"helpful@1 keeps -?\d\.\d\d .* less than 0.5"):
        own.transport("helpful", str(far), **FEW)
    # Signs of gradients raise the margin of any vector, which makes this one no less foreign.
    with pytest.raises(GateError, match="is a step of training, not the vector"):
        own.transport("helpful", str(far), method="gradient-sign", least=1e-3, **FEW)
    assert len(own.summaries("helpful")) == 1


def test_what_does_not_fit_is_refused(own: prefreg.Registry, tmp_path: Path) -> None:
    save(llama(tied=True), tmp_path / "other")
    with pytest.raises(VectorError, match="is of another architecture"):
        own.transport("helpful", str(tmp_path / "other"))
    with pytest.raises(UsageError, match="is a version of pocket already"):
        own.transport("helpful", "pocket")
    with pytest.raises(UsageError, match="a share above 0"):
        own.transport("helpful", "pocket", least=0)
    near = disturbed(tmp_path / "near", 1e-3)
    row = {"prompt": "Who?", "chosen": "Elsa.", "rejected": "It is hard to say."}
    (tmp_path / "few.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="needs at least 5 groups"):
        own.transport("helpful", str(near), data=tmp_path / "few.jsonl")
