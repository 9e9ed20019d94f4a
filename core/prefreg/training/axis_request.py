"""What is asked of a run that adds an axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefreg.data.tokens import Policy
from prefreg.errors import UsageError


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """What is asked of LoRA."""

    rank: int
    alpha: float
    rslora: bool = False
    targets: tuple[str, ...] = ()
    """Ends of module names; without any, every linear layer but the head."""

    @property
    def scaling(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True, slots=True)
class AxisRequest:
    """What is asked of a run; every default is the command line's."""

    name: str
    """An installed axis, or a YAML file that declares one."""
    base: str | None = None
    data: str | Sequence[str] | None = None
    """Sources and files, each `NAME[@REVISION][:WEIGHT]`."""
    plus: str | None = None
    """A checkpoint that is the positive pole already: a folder or a hub id."""
    minus: str | None = None
    limit: int | None = None
    revision: str | None = None
    seed: int = 0
    max_length: int | None = None
    too_long: Policy = "truncate"
    """What becomes of texts beyond the maximum length: truncate, drop or refuse."""
    note: str | None = None
    tags: Sequence[str] = ()
    preset: str | None = None
    config: Path | None = None
    settings: Sequence[str] = ()
    """`key=value` of DPOConfig fields, over everything else."""
    dtype: str = "float32"
    """Storage dtype of the vector: float32 or bfloat16."""
    lora: int | None = None
    """The rank of LoRA on linear layers, instead of whole weights."""
    lora_alpha: float | None = None
    """Scales LoRA by alpha / rank; twice the rank if absent."""
    lora_targets: Sequence[str] = ()
    """Ends of module names; every linear layer but the head if empty."""
    rslora: bool = False
    """Scale LoRA by alpha / √rank."""
    keep_anyway: bool = False
    watch: bool = True
    """Look at held-out pairs while a pole is trained, and stop it where it collapses."""
    answers: int = 16
    """How many held-out prompts a watched pole answers now and then."""
    guards: Sequence[str] = ()
    """`key=value` of thresholds, over the defaults."""
    fresh: bool = False
    """Start over, whatever an earlier process that was ended has left."""
    accept_licence: bool = False
    """Use data whose licence forbids commercial use."""
    length_balanced: bool = False
    """Leave pairs out so that the length of an answer predicts nothing."""

    def lora_options(self) -> LoraOptions | None:
        """Return how the poles are trained as adapters, or None for whole weights."""
        rank, alpha = self.lora, self.lora_alpha
        if rank is None:
            if alpha is not None or self.lora_targets or self.rslora:
                raise UsageError(
                    "--lora-alpha, --lora-targets and --rslora belong to --lora RANK: give it too."
                )
            return None
        if rank < 1 or (alpha is not None and not 0 < alpha < math.inf):
            raise UsageError("The rank of LoRA is 1 or more, and its alpha above zero.")
        if self.dtype != "float32":
            raise UsageError(
                "Factors are small and stored in float32: leave --dtype out with --lora."
            )
        # The usual choice: a scaling of 2, or of 2·√rank with rsLoRA.
        alpha = 2.0 * rank if alpha is None else alpha
        return LoraOptions(rank, alpha, self.rslora, tuple(self.lora_targets))
