"""What a stored vector does to the held-out pairs of its own run, read again."""

from collections.abc import Sequence
from typing import Any

from prefreg.checkpoints import BaseModel
from prefreg.data.pairs import build_pairs
from prefreg.data.tokens import TokenPair, tokenize_pairs
from prefreg.errors import PrefregError
from prefreg.flows.resolve import find_base
from prefreg.flows.rows import open_rows
from prefreg.flows.steering import make_dials
from prefreg.plugins import load_axes
from prefreg.registry import VersionRecord
from prefreg.scoring.log_probs import answer_log_probs
from prefreg.scoring.report import compare
from prefreg.training.loading import load_limits, load_model, load_tokenizer, quiet
from prefreg.vectors import Vector

_SOURCE = "pocket"  # made by rule: the only one that needs neither a network nor a licence


def compare_margins(record: VersionRecord, original: Vector, kept: Vector) -> dict[str, Any]:
    """Measure the margin of both at η = 1 on the held-out pairs, or say why it was not measured.

    The margin is the mean change of log p(chosen) − log p(rejected) against the base, in nats.
    """
    try:
        base, pairs, reason = _heldout(record)
        if reason is not None:
            return {"reason": reason}
        with quiet():
            model = load_model(base)
        dials = make_dials(model, base)
        reference = answer_log_probs(model, pairs)
        found = []
        for vector in (original, kept):
            dials.apply([(1.0, vector)])
            found.append(compare(answer_log_probs(model, pairs), reference).mean_margin)
    except PrefregError as error:
        return {"reason": str(error)}
    share = found[1] / found[0] if found[0] else None
    return {"pairs": len(pairs), "original": found[0], "compressed": found[1], "kept": share}


def _heldout(record: VersionRecord) -> tuple[BaseModel, Sequence[TokenPair], str | None]:
    """Return the base, the held-out pairs of a run, and why they are not to be had."""
    base = find_base(record.base)
    data = record.metadata.get("data") or {}
    training = record.metadata.get("training") or {}
    parts = data.get("sources") or []
    if [part.get("source") for part in parts] != [_SOURCE] or "settings" not in training:
        return base, (), "its data cannot be read again here: only those of pocket's rules can"
    axis = load_axes().find(record.axis).axis
    seed = int(training["seed"])
    origin = open_rows(
        axis, data=_SOURCE, base=base.name, limit=parts[0]["rows"], revision=None, seed=seed
    )
    found = build_pairs(
        origin.pairs,
        axis_name=axis.name,
        seed=seed,
        length_balanced=bool(data.get("length_balanced")),
    )
    if found.fingerprint != data.get("fingerprint"):
        return base, (), "the plugin makes other pairs now than when the vector was trained"
    if not found.heldout:
        return base, (), "no pairs were held out of its training"
    context, vocabulary = load_limits(base)
    length = min(int(training["settings"]["max_length"]), context or 1 << 30)
    tokens = tokenize_pairs(
        found.heldout, load_tokenizer(base), max_length=length, vocabulary=vocabulary
    )
    return base, tokens.pairs, None
