"""What is asked of a run that makes a vector, or the base that vectors are trained on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefreg.data.tokens import Policy
from prefreg.errors import UsageError
from prefreg.values import STORAGE_DTYPES, dtype_name

Poles = Literal["dpo", "sft"]
LORA_ALPHA = 32.0
"""With it the best learning rate hardly depends on the rank (Schulman et al., LoRA Without Regret,
2025): each of `rank` directions is scaled by 32 / rank, and together they move the output alike."""


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """What is asked of LoRA."""

    rank: int
    alpha: float
    rslora: bool = False
    targets: tuple[str, ...] = ()
    """Ends of names of modules, or of stacks of experts; without any, every linear layer but the
    head."""

    @property
    def scaling(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True, slots=True)
class AxisRequest:
    """How the ± pair of an axis is trained; every default is the command line's."""

    name: str
    """An installed axis, a YAML file that declares one, or a new name for rows given by data."""
    base: str | None = None
    """Base model: a name, folder, GGUF file or hub id.  [default: the last one, or pocket]"""
    data: str | Sequence[str] | None = None
    """One of the axis' sources, or a file of rows; repeat it for several.
    SOURCE@REVISION pins one."""
    new: bool = False
    """The name is of a new axis, however close it is to that of another."""
    plus: str | None = None
    """A checkpoint that is the positive pole already; only the other is trained."""
    minus: str | None = None
    """The same for the negative pole."""
    poles: Poles | None = None
    """How a pole is made: dpo prefers its answers, sft gives them.
    [default: the axis's own, mostly dpo]"""
    limit: int | None = None
    """Read at most this many rows."""
    revision: str | None = None
    """Revision of the data set.  [default: the newest]"""
    seed: int = 0
    """Seed of the data order."""
    max_length: int | None = None
    """Tokens of prompt and answer together."""
    too_long: Policy = "truncate"
    """What becomes of texts beyond the maximum length; they are counted."""
    note: str | None = None
    """A line to remember the version by."""
    tags: Sequence[str] = ()
    """A word to group versions by; may be repeated."""
    preset: str | None = None
    """A set of hyper-parameters: paper or quick."""
    config: Path | None = None
    """YAML file of DPOConfig fields."""
    settings: Sequence[str] | Mapping[str, object] = ()
    """One DPOConfig field."""
    template_options: Sequence[str] | Mapping[str, object] = ()
    """What the chat template is told, as in enable_thinking=false; a row's own options stand
    over it."""
    dtype: str = "float32"
    """Storage dtype of the vector."""
    lora: int | None = None
    """Train LoRA of this rank; 0 trains whole weights.  [default: the base's own, mostly 0]"""
    lora_alpha: float | None = None
    """LoRA is scaled by alpha / RANK.  [default: 32]"""
    lora_targets: Sequence[str] = ()
    """Linear layers, embeddings or experts, as in q_proj,v_proj.  [default: every linear layer
    but the head]"""
    rslora: bool = False
    """Scale LoRA by alpha / √RANK instead."""
    shard: bool = False
    """Deal weights, gradients and moments out to the processes of torchrun (FSDP 2)."""
    four_bit: bool = False
    """Lay adapters (LoRA) on the base in 4 bits, a quarter of bfloat16 (QLoRA, by bitsandbytes)."""
    length_balanced: bool = False
    """Leave pairs out so that the longer answer is the chosen one half of the time."""
    data_licence: str | None = None
    """Licence of the rows in files given by data, as in CC-BY-4.0; the version records it."""
    accept_licence: bool = False
    """Use data whose licence forbids commercial use."""
    again: bool = False
    """Train and store once more what the registry has already."""
    fresh: bool = False
    """Start over, whatever an ended run has left."""
    watch: bool = True
    """Look at held-out pairs in training, and stop a pole that collapses."""
    answers: int = 16
    """Held-out prompts that a pole answers now and then; 0 leaves it out."""
    guards: Sequence[str] | Mapping[str, float] = ()
    """One threshold of the guards."""
    keep_anyway: bool = False
    """Store the vector even if a guard refuses it."""

    def __post_init__(self) -> None:
        """Write the dtype by its name."""
        object.__setattr__(self, "dtype", dtype_name(self.dtype, STORAGE_DTYPES))

    def lora_options(self, default: int | None = None) -> LoraOptions | None:
        """Return how the poles are trained as adapters, or None for whole weights.

        `default` is the base's own rank, for a request that names none, nor a preset or a pole.
        """
        rank, alpha = self.lora, self.lora_alpha
        if rank is None and self.preset is None and self.plus is self.minus is None:
            rank = default
        if not rank:
            if alpha is not None or self.lora_targets or self.rslora or self.four_bit:
                raise UsageError(
                    "--lora-alpha, --lora-targets, --rslora and --four-bit belong to --lora RANK: "
                    "give it too."
                )
            return None
        if self.four_bit and self.shard:
            raise UsageError(
                "A base in 4 bits is not dealt out: leave --shard out, and each process has it."
            )
        if rank < 0 or (alpha is not None and not 0 < alpha < math.inf):
            raise UsageError("The rank of LoRA is 0 or more, and its alpha above zero.")
        if self.dtype != "float32":
            raise UsageError(
                f"The factors of LoRA (rank {rank}) are small and stored in float32: leave --dtype "
                "out, or train whole weights by --lora 0."
            )
        alpha = LORA_ALPHA if alpha is None else alpha
        return LoraOptions(rank, alpha, self.rslora, tuple(self.lora_targets))


@dataclass(frozen=True, slots=True)
class SFTRequest:
    """How a base model is fine-tuned on instructions; every default is the command line's."""

    output: Path
    """Folder of the model."""
    data: Path
    """A file of rows with answers."""
    base: str | None = None
    """The raw model: a folder, GGUF file or hub id."""
    from_config: Path | None = None
    """Start from random weights instead; the tokenizer lies beside the file."""
    heldout: Path | None = None
    """Held-out answers.  [default: of a tenth of the prompts, at most 200]"""
    limit: int | None = None
    """Read at most this many rows."""
    max_length: int | None = None
    """Tokens of prompt and answer together."""
    too_long: Policy = "truncate"
    """What becomes of texts beyond the maximum length; they are counted."""
    seed: int = 0
    """Seed of the data order."""
    preset: str | None = None
    """A set of hyper-parameters: paper, quick or scratch."""
    config: Path | None = None
    """YAML file of SFTConfig fields."""
    settings: Sequence[str] | Mapping[str, object] = ()
    """One SFTConfig field."""
    chat_template: Path | None = None
    """Jinja file.  [default: the model's own, or a plain one]"""


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What is to be imported; every default is the command line's."""

    name: str
    """The axis; it need not be an installed one."""
    base: str
    """Base model of all: a name, folder, GGUF file or hub id."""
    plus: Path | None = None
    """The positive pole."""
    minus: Path | None = None
    """The negative pole."""
    task_vector: Path | None = None
    """Differences in the base's names, instead of poles: a safetensors file, or a folder."""
    positive_only: bool = False
    """There is no negative pole: φ₊ = θ₊ − θ_base."""
    of_pair: bool = False
    """The task vector is θ₊ − θ₋."""
    dtype: str = "float32"
    """Storage dtype of a dense vector."""
    note: str | None = None
    """A line to remember the version by."""

    def __post_init__(self) -> None:
        """Write the dtype by its name."""
        object.__setattr__(self, "dtype", dtype_name(self.dtype, STORAGE_DTYPES))
