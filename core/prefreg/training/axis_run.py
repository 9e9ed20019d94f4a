"""A run of add-axis: what decides on it, and which stored version it made.

It is handed on whole from step to step, and never changed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.axis import Axis
from prefreg.axes.plugins import FoundAxis
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.data.mixture import Mixture
from prefreg.data.pairs import PairSet
from prefreg.data.templates import DAY, check_options, find_day
from prefreg.data.tokens import TokenisedPairs, tokenise_poles
from prefreg.errors import BaseModelError, UsageError
from prefreg.models.loading import load_limits, load_model, load_tokenizer, quiet
from prefreg.plain_yaml import read_assignments
from prefreg.registry import Access, VersionRecord
from prefreg.training.axis_request import AxisRequest, LoraOptions, Poles
from prefreg.training.guards import Failure, Guards
from prefreg.training.lora import Lora, choose_layers
from prefreg.training.precision import Precision
from prefreg.training.schedule import Schedule
from prefreg.training.settings import Settings, default_settings
from prefreg.vectors.lora_layers import ends
from prefreg.vectors.tensors import CheckpointTensors

Pole = Literal["positive", "negative"]


@dataclass(frozen=True, slots=True)
class ExistingPole:
    """A checkpoint that stands for one pole, so that only the other is trained."""

    pole: Pole
    model: BaseModel

    def load(self) -> PreTrainedModel:
        """Load its weights in float32."""
        return load_model(self.model)

    def excuse(self, failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
        """Give the failures of a checkpoint advice that fits one that was not trained here."""
        advice = "the checkpoint prefers something else, or has collapsed"
        return tuple(replace(failure, advice=advice) for failure in failures)

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded about it: its name without the way there, and its content."""
        found = self.model
        name = found.name if found.revision else found.path.name
        return {"name": name, "revision": found.revision, "weights": found.fingerprint.weights}


@dataclass(frozen=True)
class AxisRun:
    """All that decides on a run, which every step of it takes on."""

    request: AxisRequest
    found: FoundAxis
    base: BaseModel
    settings: Settings
    options: LoraOptions | None
    """Of LoRA, where the poles are adapters."""
    existing: ExistingPole | None
    guards: Guards
    mixture: Mixture
    """Where the rows came from."""
    pairs: PairSet
    precision: Precision
    poles: Poles = "dpo"
    seconds: float = 0.0
    """What it took to come so far."""

    @property
    def axis(self) -> Axis:
        """Return the axis itself."""
        return self.found.installed.axis

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the base's tokenizer."""
        return load_tokenizer(self.base)

    @cached_property
    def template_options(self) -> dict[str, Any]:
        """Find what the chat template is told of all rows: what was asked for, and the day.

        Raises:
            UsageError: The template reads no such option, or no row is written by it.
        """
        asked = read_assignments(self.request.template_options)
        pairs = (*self.pairs.train, *self.pairs.heldout)
        if all(isinstance(pair.prompt, str) for pair in pairs):
            if asked:
                raise UsageError(
                    "--template-option is for messages, and the rows are strings, which are taken "
                    "verbatim: write messages, or leave it out."
                )
            return {}
        with quiet():
            check_options(self.tokenizer, asked)
            day = find_day(self.tokenizer, asked)
        return {**asked, DAY: day} if day else asked

    @cached_property
    def told_pairs(self) -> PairSet:
        """Return the pairs with what the chat template is told of all of them."""
        train, heldout = (
            tuple(pair.tell(self.template_options) for pair in part)
            for part in (self.pairs.train, self.pairs.heldout)
        )
        return replace(self.pairs, train=train, heldout=heldout)

    @cached_property
    def tokens(self) -> TokenisedPairs:
        """Write the pairs of both poles as tokens: once, for all that looks at them."""
        with quiet():
            tokenizer = self.tokenizer
            context, vocabulary = load_limits(self.base)
            return tokenise_poles(
                self.axis,
                self.told_pairs,
                tokenizer,
                max_length=self.max_length,
                context=context,
                vocabulary=vocabulary,
                policy=self.request.too_long,
            )

    @cached_property
    def lora(self) -> Lora | None:
        """Find the layers that LoRA is put on, or None where whole weights are trained."""
        return choose_layers(self.options, self.base) if self.options else None

    @cached_property
    def max_length(self) -> int:
        """Return the tokens that a prompt and its answer may have together."""
        return self.settings.max_length(load_limits(self.base)[0])

    @cached_property
    def schedule(self) -> Schedule:
        """Count the steps of a pole."""
        pairs = len(self.tokens.positive[self.tokens.train])
        return Schedule.of(pairs, self.settings, lora=self.options is not None)

    @property
    def row_notes(self) -> tuple[str, ...]:
        """Say what is to be known of the rows and how they are written, a sentence each."""
        day = self.template_options.get(DAY)
        told = f"The chat template tells the day: it is {day} in training and in measuring."
        return (*self.tokens.notes, *([told] if day else ()))

    def notes(self) -> tuple[str, ...]:
        """Say what is to be known before it trains, a sentence each."""
        left_out = self.lora.notes if self.lora else ()
        said = (self.schedule.warning(), self.precision.note(), self._quantised())
        return (*self.row_notes, *left_out, f"Each pole: {self.schedule}.", *filter(None, said))

    def _quantised(self) -> str | None:
        if not self.precision.four_bit:
            return None
        return (
            "The base lies in 4 bits (NF4): φ is exactly what the adapters add to it as it is "
            "dequantised, and is composed with the base as it is stored."
        )

    def settings_in_use(self) -> dict[str, Any]:
        """Return the settings with the maximum length that is used."""
        return self.settings.to_json() | {"max_length": self.max_length}

    def settings_left(self) -> dict[str, Any]:
        """Return what TRL takes for the settings that nobody set."""
        return default_settings(self.settings, max_length=self.max_length)


def find_existing_pole(
    base: BaseModel, checkpoints: Mapping[Pole, str | None], *, lora: bool
) -> ExistingPole | None:
    """Open the checkpoint that is given for a pole, and check that it is a child of the base."""
    wanted = [(pole, spec) for pole, spec in checkpoints.items() if spec is not None]
    if not wanted:
        return None
    if len(wanted) > 1:
        raise UsageError(
            "Both poles are there, so nothing is left to train: "
            "`prefreg import NAME --plus DIR --minus DIR --base DIR` stores their difference."
        )
    if lora:
        raise UsageError(
            "An existing checkpoint is a pole of whole weights: leave --lora out, or merge both."
        )
    [(pole, spec)] = wanted
    model = resolve_base(spec)
    if model.fingerprint.weights == base.fingerprint.weights:
        raise BaseModelError(f"{model.name} holds the weights of the base, so it is no pole.")
    CheckpointTensors.of_pole(model.checkpoint, base.checkpoint)
    return ExistingPole(pole, model)


def find_stored(place: Access, run: AxisRun) -> VersionRecord | None:
    """Find the newest version of the same base, pairs, settings and seed, of any dtype."""
    return max(_all_stored(place, run), key=lambda record: record.number, default=None)


def find_same(place: Access, run: AxisRun) -> VersionRecord | None:
    """Find the newest version, of the registry itself, that the run would only make again."""
    poles = ("positive", "negative")
    given = {run.existing.pole: run.existing.to_json()} if run.existing else {}
    same = [
        record
        for record in _all_stored(place, run)
        if not record.starter
        and (record.dtype == "BF16") == (run.request.dtype == "bfloat16")
        and record.metadata["data"].get("too_long") == run.request.too_long
        and given == {p: f for p in poles if (f := record.metadata["poles"][p].get("checkpoint"))}
        and _same_guards(record, run)
    ]
    return max(same, key=lambda record: record.number, default=None)


def _same_guards(record: VersionRecord, run: AxisRun) -> bool:
    """Whether the poles were guarded alike: what stops one early decides on φ, too."""
    made, guards = record.metadata["training"], run.guards
    found = (made.get("guards"), made.get("watched"), made.get("asked"))
    return found == (asdict(guards.thresholds), guards.watched, guards.prompts)


def _all_stored(place: Access, run: AxisRun) -> list[VersionRecord]:
    if not place.is_present():
        return []
    with place.reading() as store:
        if store.canonical(run.axis.name) is None:
            return []
        settings, others = run.settings_in_use(), run.settings_left()
        found = store.versions(run.axis.name)
        return [each for each in found if _fits(each, run, settings, others)]


def _fits(
    record: VersionRecord, run: AxisRun, settings: dict[str, Any], others: dict[str, Any]
) -> bool:
    training: dict[str, Any] = record.metadata.get("training") or {}
    recorded: dict[str, Any] = training.get("settings") or {}
    known = (training.get("defaults") or {}) | recorded
    configuration = run.base.fingerprint.configuration
    return (
        record.axis == run.axis.name
        and record.base.weights == run.base.fingerprint.weights
        and record.contrast == "pair"
        and not {"compression", "transport"} & record.metadata.keys()
        and training.get("seed") == run.request.seed
        # Versions of before it was recorded do not say.
        and training.get("configuration", configuration) == configuration
        # What one of them set, the other may have left at the same value.
        and all(known.get(key) == (others | settings).get(key) for key in {*settings, *recorded})
        and (record.metadata.get("data") or {}).get("fingerprint") == run.pairs.fingerprint
        and _same_lora(training.get("lora"), run)
        and (_weights_of(training) == "nf4") == run.precision.four_bit
        and _same_options(training.get("template_options") or {}, run)
    )


def _weights_of(training: dict[str, Any]) -> str | None:
    return (training.get("precision") or {}).get("weights")


def _same_lora(recorded: dict[str, Any] | None, run: AxisRun) -> bool:
    if run.options is None or not recorded:
        return run.options is None and not recorded
    names = ("rank", "alpha", "rslora")
    experts = recorded.get("experts", [])  # older versions have none
    trained = [*(weight.removesuffix(".weight") for weight in recorded["weights"]), *experts]
    return all(recorded.get(name) == getattr(run.options, name) for name in names) and (
        all(ends(name, run.options.targets) for name in trained)
        if run.options.targets
        else not experts
    )


def _same_options(recorded: dict[str, Any], run: AxisRun) -> bool:
    asked = read_assignments(run.request.template_options)
    # Another day alone is no reason to train once more.
    return asked == {key: recorded[key] for key in recorded if key != DAY or DAY in asked}
