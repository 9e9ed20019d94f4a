"""The functional geometry of tiny models whose logits are known."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiny
from prefreg.errors import DataError
from prefreg.evaluation import dial_effects
from prefreg.evaluation.dial_effects import FunctionalGeometry, functional_geometry, step_logits
from prefreg.evaluation.divergence import divergences
from prefreg.models.generation import Answer

ANSWERS = [Answer("", [1, 5], [7, 9, 2], True), Answer("", [1, 4, 6, 3], [8, 2], True)]


class Biased(torch.nn.Module):
    """A model whose logits are the same everywhere and given."""

    device = torch.device("cpu")
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=3))

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.zeros(3)

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, 3))


def biased(*directions: Sequence[float]):
    model = Biased()
    rows = torch.tensor(directions)

    def turn(etas: Sequence[float]) -> Biased:
        model.logits = torch.tensor(etas) @ rows
        return model

    return turn


def test_covariances_worked_by_hand() -> None:
    turn = biased([3.0, 0.0, 0.0], [0.0, 3.0, 0.0])
    found = functional_geometry(turn, 2, ANSWERS)
    # Over three equally likely words: 3² · (1/3 − 1/9) and −3² / 9 a step; 3 and 2 steps.
    assert found.per_answer[0] == pytest.approx(3 * np.array([[2.0, -1.0], [-1.0, 2.0]]), rel=1e-4)
    assert found.gram == pytest.approx(2.5 * np.array([[2.0, -1.0], [-1.0, 2.0]]), rel=1e-4)
    assert found.cosines[0, 1] == pytest.approx(-0.5, rel=1e-4)
    assert found.tokens.tolist() == [3, 2]
    # ½ · (1·2·1 + 2·1·2·(−1)·… ) worked: ½ · 2.5 · (2 + 8 − 4).
    assert found.predict([1.0, 2.0]) == pytest.approx(7.5, rel=1e-4)


def test_what_shifts_all_logits_alike_does_nothing() -> None:
    found = functional_geometry(biased([2.0, 2.0, 2.0], [1.0, 0.0, 0.0]), 2, ANSWERS)
    assert found.gram[0] == pytest.approx([0, 0], abs=1e-6)
    assert np.isnan(found.cosines[0, 1])


def test_small_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = biased([1.0, 0.0, 0.0], [0.0, 2.0, 0.5])
    expected = functional_geometry(turn, 2, ANSWERS).per_answer
    monkeypatch.setattr(dial_effects, "_LOGITS", 1)
    assert functional_geometry(turn, 2, ANSWERS).per_answer == pytest.approx(expected, rel=1e-6)


def test_no_answer_is_refused() -> None:
    with pytest.raises(DataError, match="at least one answer"):
        functional_geometry(biased([1.0, 0.0, 0.0]), 1, [])


def test_step_logits_are_those_that_predict_the_answer() -> None:
    model = tiny.llama(tied=False).eval()
    found = step_logits(model, ANSWERS)
    assert found.shape == (5, 64)
    for answer, rows in zip(ANSWERS, found.split([3, 2]), strict=True):
        ids = torch.tensor([[*answer.prompt_ids, *answer.ids]])
        with torch.inference_mode():
            whole = model(input_ids=ids).logits[0, len(answer.prompt_ids) - 1 : -1]
        assert torch.allclose(rows, whole, atol=1e-5)


def test_near_the_base_the_prediction_is_the_divergence() -> None:
    """On a real model: ½·ηᵀGη against KL(π_η ‖ π_0) on the same contexts."""
    model = tiny.llama(tied=False).eval()
    pristine = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    phis = [
        {name: torch.randn(p.shape, generator=generator) * 0.05 for name, p in pristine.items()}
        for _ in range(2)
    ]

    def turn(etas: Sequence[float]):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(
                    pristine[name]
                    + sum(eta * phi[name] for eta, phi in zip(etas, phis, strict=True))
                )
        return model

    found = functional_geometry(turn, 2, ANSWERS)
    for etas in ([0.05, 0.0], [0.03, -0.04]):
        nats = divergences(turn(etas), pristine, ANSWERS)
        assert found.predict(etas) == pytest.approx(np.mean(nats), rel=0.1)
    far = divergences(turn([6.0, 6.0]), pristine, ANSWERS)
    assert not np.isclose(found.predict([6.0, 6.0]), np.mean(far), rtol=0.5)


def test_prediction_is_quadratic() -> None:
    geometry = FunctionalGeometry(np.array([[[2.0, 1.0], [1.0, 3.0]]]), np.array([4.0]))
    assert geometry.predict([2.0, 0.0]) == 4 * geometry.predict([1.0, 0.0])
    assert geometry.predict([1.0, -1.0]) == 0.5 * (2 - 2 + 3)
