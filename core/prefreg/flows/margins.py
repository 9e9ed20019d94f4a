"""What compressing a vector costs: the margin of both on the held-out pairs of its run."""

from collections.abc import Sequence
from typing import Any

from prefreg.checkpoints import BaseModel
from prefreg.data.tokens import TokenPair, tokenize_pairs
from prefreg.errors import DataError, PrefregError
from prefreg.flows.heldout import heldout_pairs, parts_of
from prefreg.flows.resolve import find_base
from prefreg.flows.steering import make_dials
from prefreg.plugins import load_axes
from prefreg.registry import VersionRecord
from prefreg.scoring.log_probs import answer_log_probs
from prefreg.scoring.report import compare
from prefreg.training.loading import load_limits, load_model, load_tokenizer, on_gpu, quiet
from prefreg.vectors import Vector

_SOURCE = "pocket"  # made by rule: the only one that needs neither a network nor a licence


def compare_margins(record: VersionRecord, original: Vector, kept: Vector) -> dict[str, Any]:
    """Measure the margin of both at η = 1 on the held-out pairs, or say why it was not measured.

    The margin is the mean change of log p(chosen) − log p(rejected) against the base, in nats.
    """
    try:
        base, pairs = _heldout(record)
        with quiet():
            model = on_gpu(load_model(base))
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


def _heldout(record: VersionRecord) -> tuple[BaseModel, Sequence[TokenPair]]:
    """Return the base and the held-out pairs of a run, as tokens."""
    base = find_base(record.base)
    if [part.get("source") for part in parts_of(record)] != [_SOURCE]:
        raise DataError("its data cannot be read again here: only those of pocket's rules can")
    pairs = heldout_pairs(record, load_axes().find(record.axis).axis)
    context, vocabulary = load_limits(base)
    length = min(int(record.metadata["training"]["settings"]["max_length"]), context or 1 << 30)
    tokens = tokenize_pairs(pairs, load_tokenizer(base), max_length=length, vocabulary=vocabulary)
    return base, tokens.pairs
