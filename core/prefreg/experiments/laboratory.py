"""What every experiment works with: its folder, the vectors it needs, and what measures them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.checkpoints.bases import POCKET
from prefreg.data.rendering import encode_prompt
from prefreg.errors import DataError
from prefreg.experiments.gauges import Gauge, answer_gauges
from prefreg.experiments.measuring import Measuring
from prefreg.experiments.request import ReproduceRequest
from prefreg.flows.access import Access
from prefreg.flows.add_axis import Prepared, add_prepared, prepare
from prefreg.flows.axis_request import AxisRequest
from prefreg.flows.copying import copy_version
from prefreg.flows.measuring.evaluator import Evaluator, open_evaluator
from prefreg.flows.measuring.request import EvaluationRequest
from prefreg.flows.stored import find_stored
from prefreg.registry import VersionRecord
from prefreg.terms import Term
from prefreg.training import Progress
from prefreg.training.loading import load_limits, load_tokenizer

ProgressFor = Callable[[str], Progress | None]
Vectors = Mapping[tuple[str, int], VersionRecord]
"""By axis and seed."""


@dataclass(slots=True)
class Laboratory:
    """An experiment's request with the registries that it reads and writes."""

    request: ReproduceRequest
    axes: tuple[str, ...]
    given: Access
    """Where vectors may be already."""
    folder: Path
    note: Callable[[str], None]
    progress: ProgressFor
    base: BaseModel = field(init=False)
    own: Access = field(init=False)
    """The registry in the folder, which has every vector of the experiment."""
    trained: int = 0
    missed: list[str] = field(default_factory=list)
    """Guards that a vector missed; it is measured all the same."""

    def __post_init__(self) -> None:
        self.base = resolve_base(self.request.base)
        self.own = Access(self.folder / "registry.db")
        if self.request.data is not None and not (self.request.data / "prefs").is_dir():
            raise DataError(
                f"{self.request.data} is no pack of pairs: there is no folder 'prefs' in it, with "
                "AXIS/train.jsonl.gz and dev.jsonl.gz."
            )

    @property
    def on_pocket(self) -> bool:
        """Whether the base is the bundled model."""
        return self.base.name == POCKET

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the training."""
        return self.request.seeds

    def axis_request(self, axis: str, seed: int, data: Path | None = None) -> AxisRequest:
        """Return how an axis is trained, on pairs of a file, of the pack or of its own source."""
        asked = self.request
        if data is None and asked.data is not None:
            data = self.pack_file(axis, "train")
        return AxisRequest(
            axis,
            base=asked.base,
            data=None if data is None else str(data),
            limit=asked.limit,
            seed=seed,
            preset=asked.preset,
            settings=asked.settings,
            lora=asked.lora,
            accept_licence=asked.accept_licence,
            # A guard that is missed is a finding, and no reason to stop.
            keep_anyway=True,
        )

    def pack_file(self, axis: str, split: str) -> Path:
        """Return a file of the pack.

        Raises:
            DataError: The pack has none for this axis.
        """
        assert self.request.data is not None
        path = self.request.data / "prefs" / axis / f"{split}.jsonl.gz"
        if not path.is_file():
            raise DataError(f"The pack has no pairs of {axis!r}: {path} is missing.")
        return path

    def vectors(self, axes: Sequence[str] | None = None) -> dict[tuple[str, int], VersionRecord]:
        """Find or train the vectors of axes for every seed."""
        found = {}
        for seed in self.seeds:
            for axis in axes or self.axes:
                request = self.axis_request(axis, seed)
                found[axis, seed] = self.obtain(prepare(self.own, request, None), request)
        return found

    def obtain(self, run: Prepared, request: AxisRequest) -> VersionRecord:
        """Find the version of a run in the folder or the given registry, else train it."""
        record = find_stored(self.own, run, request.seed)
        if record is None and (known := find_stored(self.given, run, request.seed)):
            reference = (known.axis, str(known.number))
            target = self.folder / "registry.db"
            record = copy_version(self.given, reference, target, renumber=True).record
            self.note(f"Took {known} of the registry, seed {request.seed}.")
        if record is None:
            name = f"{run.installed.axis.name}, seed {request.seed}"
            self.note(f"Training {name} …")
            record = add_prepared(self.own, run, request, self.progress(f"{name}: "))
            self.trained += 1
        for pole, kept in (record.metadata.get("poles") or {}).items():
            for failure in kept.get("failures") or ():
                value, limit = failure["value"], failure["threshold"]
                what = f"{failure['figure']} {value:.3g}, threshold {limit:.3g}"
                self.missed.append(f"{record}, {pole} pole: {what}")
        return record

    def measure(
        self,
        vectors: Vectors,
        files: Mapping[str, Path] | None = None,
        gauges: Callable[[Evaluator], dict[str, Gauge]] = answer_gauges,
    ) -> Measuring:
        """Open what measures compositions of vectors, scored along their axes.

        The pairs that are measured are those of `files`, else of the pack or the axes' own.

        Raises:
            DataError: There is nothing to ask, or no held-out pairs.
        """
        asked = self.request
        scored = tuple(dict.fromkeys(axis for axis, _ in vectors))
        if files is None and asked.data is not None:
            files = {axis: self.pack_file(axis, "dev") for axis in scored}
        first = {axis: record for (axis, seed), record in vectors.items() if seed == self.seeds[0]}
        evaluator = open_evaluator(
            self.own,
            [Term(axis, 1.0, str(record.number)) for axis, record in first.items()],
            EvaluationRequest(
                base=asked.base,
                axes=scored,
                prompts=asked.prompts,
                max_new_tokens=asked.max_new_tokens,
                data=tuple(f"{axis}={path}" for axis, path in (files or {}).items()),
                reward_models=asked.reward_models,
                tasks=asked.tasks if asked.name == "commonsense" else (),
                task_limit=asked.task_limit,
                task_path=asked.task_path,
            ),
        )
        self._leave_long_prompts_out(evaluator)
        return Measuring(evaluator, vectors, self.seeds, self.progress, gauges(evaluator))

    def _leave_long_prompts_out(self, evaluator: Evaluator) -> None:
        """Ask only what leaves room for an answer; a pack is not made for one context."""
        context = load_limits(self.base)[0]
        if self.on_pocket or context is None:
            return
        tokenizer = load_tokenizer(self.base)
        room = context - self.request.max_new_tokens
        asked = evaluator.asked
        evaluator.asked = [
            each for each in asked if len(encode_prompt(each.prompt, tokenizer)) <= room
        ]
        if left_out := len(asked) - len(evaluator.asked):
            self.note(f"{left_out} of {len(asked)} prompts are too long for the model's context.")

    def recipe(self, measured: Measuring | None = None, more: str = "") -> str:
        """Say in a few sentences what was trained and asked."""
        names = ", ".join(map(str, self.seeds))
        seeds = f"seed {names}" if len(self.seeds) == 1 else f"seeds {names}"
        data = "the pack's pairs" if self.request.data else "the default source of each axis"
        if self.on_pocket and not self.request.data:
            data = "pocket's rows"
        said = f"{self.base.name}; {', '.join(self.axes)} trained on {data}, {seeds}."
        if measured is not None:
            said += f" {measured.describe()}"
        return f"{said} {more}".strip()
