"""Mislabelled rows, found by vectors that have not seen them."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

import prefreg
from prefreg import pocket
from prefreg.axes.isolation import label_rows
from prefreg.axes.plugins import find_axis
from prefreg.errors import DataError
from prefreg.evaluation.label_audit import fit_exchanged

pytestmark = pytest.mark.slow


def test_wrong_labels_are_told_by_the_signs_of_large_margins() -> None:
    draw = np.random.default_rng(0)
    exchanged = draw.random(4000) < 0.1
    for spread in (draw.normal(0, 0.5, 4000), 0.3 * draw.standard_t(3, 4000)):
        margins = (1 + spread) * np.where(exchanged, -1, 1)
        share, wrong = fit_exchanged(margins)
        assert share == pytest.approx(exchanged.mean(), abs=0.015)
        assert ((wrong > 0.5) == exchanged).mean() > 0.95
        assert (wrong[margins > 0.5] < 0.05).all()
        assert (wrong[margins < -1] > 0.9).all()


def test_a_probability_is_what_it_says() -> None:
    # Two normals at ±1 of width 1: the odds of m are those of the share times e^(−2m).
    draw = np.random.default_rng(1)
    exchanged = draw.random(20000) < 0.2
    margins = draw.normal(np.where(exchanged, -1.0, 1.0), 1.0)
    _, wrong = fit_exchanged(margins)
    expected = 1 / (1 + 4 * np.exp(2 * margins))
    assert np.abs(wrong - expected).max() < 0.1


def test_margins_that_agree_name_nobody() -> None:
    share, wrong = fit_exchanged(np.full(50, 2.0))
    assert share < 1e-3
    assert wrong.max() < 0.5


def test_exchanged_answers_come_first(tmp_path: Path) -> None:
    axis = find_axis("helpful").installed.axis
    rows = pocket.rows("helpful", split="train", seed=0, limit=160)
    pairs = [each for each in label_rows(axis, rows) if each is not None]
    exchanged = set(random.Random(0).sample(range(len(pairs)), len(pairs) // 10))
    file = tmp_path / "rows.jsonl"
    lines = [
        json.dumps((pair.switched() if number in exchanged else pair).to_row())
        for number, pair in enumerate(pairs)
    ]
    file.write_text("\n".join(lines) + "\n")
    registry = prefreg.open(tmp_path / "none.db")
    found = registry.audit_labels(
        "planted", data=str(file), new=True, base="pocket", settings={"max_steps": 20}
    )
    assert not (tmp_path / "none.db").exists()
    assert len(found.pairs) == len(pairs)
    places = {f"rows.jsonl:{number + 1}" for number in exchanged}
    first = [each.place for each in found.pairs[: len(exchanged)]]
    assert len(places.intersection(first)) > len(exchanged) / 2
    assert found.agreeing > 0.7
    assert [each.margin for each in found.pairs] == sorted(each.margin for each in found.pairs)
    found.write(tmp_path / "found.jsonl")
    written = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert len(written) == len(found.suspicious)
    assert {"prompt", "chosen", "rejected", "margin", "wrong"} <= written[0].keys()


def test_too_few_pairs_are_refused(tmp_path: Path) -> None:
    row = {"chosen": "yes .", "rejected": "no ."}
    file = tmp_path / "few.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"q {n} ?"} | row) + "\n" for n in range(6)))
    with pytest.raises(DataError, match="has 6 pairs, too few"):
        prefreg.open(tmp_path / "none.db").audit_labels(
            "few", data=str(file), new=True, base="pocket"
        )
