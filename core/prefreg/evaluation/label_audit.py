"""Find mislabelled rows: each half of the pairs is judged by a vector of the other half.

A vector that was trained on a wrong label would defend it, so no row is judged by one that has
seen it, or a row of its group. By a vector of mostly right labels, a pair whose answers are
exchanged gets the negative of the margin that it should have. So of the margins of one size, a
share π of wrong labels is negative however large that size is, while right labels with a negative
margin grow rare as e^(−k·size). π and k are fitted to the signs, whatever the sizes are like.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prefreg.axes.axis import PreferencePair, plain_text
from prefreg.axes.row_sources import read_preference_file
from prefreg.composition.implicit_reward import BETA
from prefreg.composition.resolve import base_spec, identify
from prefreg.data.pairs import SMALLEST_SPLIT
from prefreg.errors import DataError
from prefreg.evaluation.evaluator import Evaluator
from prefreg.evaluation.prompts import HeldOut
from prefreg.evaluation.seed_runs import cut_in_halves, given_pairs
from prefreg.files import work_folder, write_json_lines
from prefreg.models.log_probs import margins
from prefreg.progress import Progress, progress_of
from prefreg.registry import Access
from prefreg.training.add_axis import extract_pair, prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.axis_run import AxisRun
from prefreg.training.pair import train_pair
from prefreg.vectors import open_vector

Column = NDArray[np.float64]
_LIKELY = 0.5
_SHARES = np.geomspace(1e-4, 0.49, 100)
_SLOPES = np.geomspace(0.1, 100, 60)


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair and what the vector of the other half makes of its label."""

    pair: PreferencePair
    margin: float
    """r(chosen) − r(rejected), β times nats, over the middle size of its half: 1 is usual."""
    wrong: float
    """The probability that its answers are exchanged."""
    place: str | None
    """The file and the number of the row, where the rows are those of files."""

    @property
    def texts(self) -> dict[str, str]:
        """What is asked, and what both answers say."""
        names = ("prompt", "chosen", "rejected")
        return {name: plain_text(getattr(self.pair, name)) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {"place": self.place, **self.texts, "margin": self.margin, "wrong": self.wrong}

    def to_row(self) -> dict[str, Any]:
        """Return the row that the pair is read from, with the evidence beside it."""
        return {**self.pair.to_row(), "margin": self.margin, "wrong": self.wrong}


@dataclass(frozen=True, slots=True)
class LabelAudit:
    """Every pair of an axis, judged by those of the other half, the most suspicious first."""

    axis: str
    source: str
    base: str
    pairs: tuple[JudgedPair, ...]
    unjudged: int
    """Pairs that do not fit the maximum length, or whose answers are the same as cut."""
    agreeing: float
    """Share of pairs whose label the other half agrees with: near .5, nothing can be told."""
    share_wrong: float
    """The share of exchanged answers that fits the margins best."""

    @property
    def suspicious(self) -> tuple[JudgedPair, ...]:
        """Those that are wrong more likely than not."""
        return tuple(each for each in self.pairs if each.wrong > _LIKELY)

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "source": self.source,
            "base": self.base,
            "pairs": len(self.pairs),
            "unjudged": self.unjudged,
            "agreeing": self.agreeing,
            "share_wrong": self.share_wrong,
            "suspicious": [each.to_json() for each in self.suspicious],
        }

    def write(self, file: Path) -> None:
        """Write the suspicious rows with their evidence, one JSON object a line."""
        write_json_lines(file, [each.to_row() for each in self.suspicious])


def audit_labels(
    access: Access,
    request: AxisRequest,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> LabelAudit:
    """Train on one half of the pairs of an axis and judge the other, both ways round.

    Nothing is stored. It takes as long as training two vectors.

    Raises:
        DataError: There are too few groups of pairs to be cut in two.
    """
    # A half with wrong labels may well miss a guard.
    request = replace(request, keep_anyway=True, watch=False, answers=0)
    whole = prepare(access, request, note, progress=progress)
    pairs = [*whole.pairs.train, *whole.pairs.heldout]
    halves = cut_in_halves(pairs, seed=request.seed)
    if min(map(len, halves)) < SMALLEST_SPLIT:
        raise DataError(
            f"Axis {whole.axis.name!r} has {len(pairs)} pairs, too few to train on one half and "
            f"judge the other: give {2 * SMALLEST_SPLIT} or more."
        )
    # The base is pinned, and what was balanced once is not again.
    request = replace(
        request, base=base_spec(identify(whole.base)), limit=None, length_balanced=False
    )
    found: list[tuple[PreferencePair, float]] = []
    for number, (trained, judged) in enumerate((halves, halves[::-1]), start=1):
        name = f"half {number}"
        run = prepare(access, request, None, given_pairs(trained, f"{name}.jsonl"))
        found += _judge(access, run, judged, progress_of(progress, name))
    values = np.array([margin for _, margin in found])
    share, wrong = fit_exchanged(values)
    places = _places(whole)
    scored = [
        JudgedPair(pair, margin, float(each), places.get(pair))
        for (pair, margin), each in zip(found, wrong, strict=True)
    ]
    return LabelAudit(
        axis=whole.axis.name,
        source=whole.mixture.source,
        base=str(whole.base),
        pairs=tuple(sorted(scored, key=lambda each: each.margin)),
        unjudged=len(pairs) - len(scored),
        agreeing=float((values > 0).mean()),
        share_wrong=share,
    )


def _places(run: AxisRun) -> dict[PreferencePair, str]:
    """Find the row of each pair that was read from a file."""
    return {
        pair: f"{part.origin}:{number}"
        for part in run.mixture.parts
        if part.path is not None
        for number, pair in read_preference_file(Path(part.path))
    }


def _judge(
    access: Access, run: AxisRun, judged: Sequence[PreferencePair], progress: Progress | None
) -> list[tuple[PreferencePair, float]]:
    """Return the pairs of one half with their margins by the vector of the other."""
    trained = train_pair(run, progress=progress)
    with work_folder() as folder:
        blob = Path(folder) / "vector.safetensors"
        extract_pair(trained, blob)
        del trained
        told = [pair.tell(run.template_options) for pair in judged]
        held = HeldOut(tuple(told), "the other half", run.max_length)
        name = run.axis.name
        evaluator = Evaluator(run.base, access, pairs={name: held}, dtype=torch.float32)
        with open_vector(blob, kind="low-rank" if run.lora else "dense") as vector:
            plus, minus = (
                margins(evaluator.log_probs(name, evaluator.turn([(eta, vector)]), f"{eta:+g}·φ"))
                for eta in (0.5, -0.5)
            )
    values = (float(run.settings.values.get("beta") or BETA) * (plus - minus)).numpy()
    # Two vectors are not equally long.
    usual = float(np.median(np.abs(values))) or 1.0
    kept = evaluator.tokens(name).kept
    return [(judged[at], float(value) / usual) for at, value in zip(kept, values, strict=True)]


def fit_exchanged(margins: Column) -> tuple[float, Column]:
    """Return the share of exchanged pairs, and of each the probability that it is one.

    The share and k are those of a grid under which the signs, given the sizes, are likeliest.
    """
    sizes, negative = np.abs(margins), margins < 0
    usual = float(np.median(sizes)) or 1.0
    best, share, slope = -np.inf, 0.0, 0.0
    for k in _SLOPES / usual:
        # f(−size) / f(size) of right labels
        rare = np.exp(-k * sizes)
        below = (_SHARES[:, None] + (1 - _SHARES[:, None]) * rare) / (1 + rare)
        likely = np.log(np.where(negative, below, 1 - below)).sum(1)
        at = int(likely.argmax())
        if likely[at] > best:
            best, share, slope = float(likely[at]), float(_SHARES[at]), float(k)
    odds = np.log(share / (1 - share)) - slope * margins
    wrong: Column = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
    return share, wrong
