"""Checks on the bundled model: what its tokenizer makes of the pairs, and ten steps of DPO."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedTokenizerBase

from prefreg.authoring.pair_checks import BaseWording, Finding, failed, passed, warned
from prefreg.axes.axis import Axis
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.checkpoints.bundled import DEFAULT_BASE
from prefreg.data.pairs import PairSet
from prefreg.data.tokens import PreviewToken, TokenisedPairs, preview_tokens, tokenise_poles
from prefreg.errors import DataError
from prefreg.models.loading import load_limits, load_model, load_tokenizer, quiet
from prefreg.models.log_probs import answer_log_probs, margins
from prefreg.training.settings import Settings, resolve_settings
from prefreg.training.trainer import train_pole

STEPS = 10
_LEARNING_RATE = 3e-4
_CLEAR = 2.0
"""Standard errors that a mean margin must be away from nothing."""
_ENOUGH = 20
"""With fewer held-out pairs, a margin that does not clearly move proves nothing."""
_PREVIEWED = 3


@dataclass(frozen=True, slots=True)
class Bench:
    """The bundled model, as both checks use it."""

    base: BaseModel
    tokenizer: PreTrainedTokenizerBase
    settings: Settings
    wording: BaseWording

    def tokenise(self, axis: Axis, pairs: PairSet) -> TokenisedPairs:
        """Write pairs as the bundled model's tokens."""
        context, vocabulary = load_limits(self.base)
        return tokenise_poles(
            axis,
            pairs,
            self.tokenizer,
            max_length=self.settings.max_length(context),
            context=context,
            vocabulary=vocabulary,
        )


def open_bench() -> Bench:
    """Load the bundled model's tokenizer and the settings of a smoke run."""
    base = resolve_base(DEFAULT_BASE)
    settings = resolve_settings(
        assignments=[f"max_steps={STEPS}", f"learning_rate={_LEARNING_RATE}"],
        default=base.bundled.training if base.bundled else None,
    )
    tokenizer = load_tokenizer(base)
    return Bench(base, tokenizer, settings, BaseWording(base.name, tokenizer))


def check_tokens(
    axis: Axis, pairs: PairSet, bench: Bench
) -> tuple[Finding, tuple[list[PreviewToken], ...]]:
    """Check that the bundled model's tokenizer can write the pairs, and show the first."""
    try:
        tokens = bench.tokenise(axis, pairs)
    except DataError as error:
        return warned("tokens", f"{bench.base.name} cannot write these pairs: {error}"), ()
    audit = tokens.audit
    unknown = bench.wording.unknown_share((*pairs.train, *pairs.heldout))
    said = (
        f"in {tokens.max_length} tokens of {bench.base.name} {audit.truncated} pairs are cut, "
        f"{audit.dropped_long} too long, {audit.indistinct} become equal; "
        f"it does not know {unknown:.0%} of the words"
    )
    preview = tuple(preview_tokens(tokens.positive[:_PREVIEWED], bench.tokenizer))
    lost = audit.dropped_long + audit.indistinct + audit.truncated
    return (warned if lost else passed)("tokens", said), preview


@dataclass(frozen=True, slots=True)
class Movement:
    """How far the margin of the positive pole's pairs moved, in nats."""

    mean: float
    error: float
    """Standard error of the mean."""

    @property
    def clear(self) -> bool:
        """Whether it is more than noise."""
        return abs(self.mean) > _CLEAR * self.error

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.error:.2f}"


def check_smoke(axis: Axis, pairs: PairSet, bench: Bench, *, seed: int) -> Finding:
    """Train both poles for ten steps and see whether the held-out margin follows."""
    worded = replace(
        pairs,
        train=tuple(map(bench.wording.rewrite, pairs.train)),
        heldout=tuple(map(bench.wording.rewrite, pairs.heldout)),
    )
    try:
        tokens = bench.tokenise(axis, worded)
    except DataError as error:
        return warned("smoke", f"nothing to train {bench.base.name} on: {error}")
    up, down = (_movement(bench, tokens, pole, seed) for pole in ("positive", "negative"))
    return _judge(up, down, tokens, bench.wording.describe((*pairs.train, *pairs.heldout)))


def _movement(
    bench: Bench, tokens: TokenisedPairs, pole: Literal["positive", "negative"], seed: int
) -> Movement:
    pairs = tokens.positive if pole == "positive" else tokens.negative
    # The pairs are shuffled already, and more than these are not seen in so few steps.
    seen = pairs[tokens.train][: STEPS * bench.settings.values["per_device_train_batch_size"]]
    scored = tokens.positive[tokens.report]
    with quiet():
        model = load_model(bench.base)
        before = margins(answer_log_probs(model, scored))
        train_pole(
            model,
            bench.tokenizer,
            seen,
            answer_log_probs(model, seen),
            settings=bench.settings,
            max_length=tokens.max_length,
            seed=seed,
        )
        moved = margins(answer_log_probs(model, scored)) - before
    error = float(moved.std()) / math.sqrt(len(moved)) if len(moved) > 1 else math.inf
    return Movement(float(moved.mean()), error)


def _judge(up: Movement, down: Movement, tokens: TokenisedPairs, wording: str) -> Finding:
    scored = len(tokens.positive[tokens.report])
    kind = "held-out" if tokens.split == "heldout" else "training"
    said = (
        f"after {STEPS} steps of DPO the margin of {scored} {kind} pairs moved by {up} nats for "
        f"the positive pole and by {down} for the negative one{wording}"
    )
    right = up.mean > 0 and down.mean < 0
    if right and up.clear and down.clear:
        return passed("smoke", said)
    if (up.clear and up.mean < 0) or (down.clear and down.mean > 0):
        return failed(
            "smoke", f"{said}: a pole moves the wrong way; check the label and the switch"
        )
    if scored < _ENOUGH:
        return warned("smoke", f"{said}: too few pairs to tell")
    return failed("smoke", f"{said}: what it learns does not carry over; check the label rule")
