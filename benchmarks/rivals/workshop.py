"""One base, the pairs of both axes, and runs from it that are kept on disk with what they cost."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg import pocket
from prefreg.axes.axis import PreferencePair
from prefreg.checkpoints import BaseModel, resolve_base
from prefreg.composition.in_memory import Dials, make_dials
from prefreg.data.tokens import TokenAnswer, TokenPair, tokenise_pairs
from prefreg.models.loading import load_model, load_tokenizer, quiet
from prefreg.models.log_probs import PairLogProbs, answer_log_probs
from prefreg.registry import Access
from prefreg.training.add_axis import prepare
from prefreg.training.axis_request import AxisRequest
from prefreg.training.axis_run import AxisRun, Pole
from prefreg.training.pair import train_pair, trained_weights
from prefreg.training.settings import Settings, resolve_settings
from prefreg.training.sft_trainer import SFT, fine_tune
from prefreg.training.trainer import train_pole
from prefreg.vectors.tensors import MemoryTensors
from rivals.policies import ModelPolicy

Axis = Literal["helpful", "harmless"]
AXES: tuple[Axis, ...] = ("helpful", "harmless")
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Run:
    """Weights that were trained, and what that cost."""

    change: Weights
    """θ − θ_base by names in memory."""
    tokens: int
    """Read in training: the prompt with each of its answers, a pair as often as it was seen."""
    seconds: float
    """Of a processor, as other work may share it."""


@dataclass(slots=True)
class Workshop:
    """Trains from the base; every run lies in `folder` and is not trained again."""

    folder: Path
    seed: int
    steps: int = int(str(pocket.TRAINING["max_steps"]))
    """Of one pole; what else is trained has a multiple of them."""
    base: BaseModel = field(default_factory=lambda: resolve_base("pocket"))
    model: PreTrainedModel = field(init=False)
    """The model whose weights are turned."""
    plain: PreTrainedModel = field(init=False)
    """The base, which nothing changes."""
    tokenizer: PreTrainedTokenizerBase = field(init=False)
    dials: Dials = field(init=False)
    used: dict[str, Run] = field(default_factory=dict, init=False)
    """Every run that was asked for, by its name."""
    _prepared: dict[str, AxisRun] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        with quiet():
            self.model, self.plain = load_model(self.base), load_model(self.base)
            self.tokenizer = load_tokenizer(self.base)
        self.plain.train(False)
        self.model.train(False)
        self.dials = make_dials(self.model, self.base)

    @property
    def batch(self) -> int:
        """Return how many pairs a step of DPO reads."""
        return int(str(pocket.TRAINING["per_device_train_batch_size"]))

    def turned(self, terms: Sequence[tuple[float, Weights]]) -> ModelPolicy:
        """Set the one model to θ_base + Σ η·φ."""
        stored = [
            (eta, MemoryTensors(self.dials.conversion.store(phi))) for eta, phi in terms if eta
        ]
        self.dials.apply(stored)
        return ModelPolicy(self.model, self.tokenizer)

    def prepared(self, axis: Axis) -> AxisRun:
        """Return the run of `prefreg add-axis` up to its training."""
        if axis not in self._prepared:
            request = AxisRequest(axis, base="pocket", seed=self.seed, keep_anyway=True)
            self._prepared[axis] = prepare(Access(self.folder / "none.db"), request, None)
        return self._prepared[axis]

    def pairs(self, axis: Axis) -> list[TokenPair]:
        """Return the training pairs of an axis, the positive pole's."""
        return self.write(self.prepared(axis).pairs.train)

    def write(self, pairs: Sequence[PreferencePair]) -> list[TokenPair]:
        """Write pairs as tokens."""
        return list(tokenise_pairs(pairs, self.tokenizer, max_length=_max_length()).pairs)

    def pole(self, axis: Axis, pole: Pole) -> Run:
        """Return one pole of an axis; both are trained as `prefreg add-axis` does."""
        if not self._path(f"{axis} {pole}").exists():
            run = replace(self.prepared(axis), settings=_settings(self.steps))
            started = time.process_time()
            found = train_pair(run)
            seconds = time.process_time() - started
            pairs = self.pairs(axis)
            tokens = round(self.steps * self.batch * count_tokens(pairs) / len(pairs))
            self._keep(f"{axis} positive", found.positive.weights, tokens, seconds / 2)
            self._keep(f"{axis} negative", found.negative.weights, tokens, seconds / 2)
        return self._recall(f"{axis} {pole}")

    def dpo(self, name: str, pairs: Sequence[TokenPair], start: Run | None = None) -> Run:
        """Train on pairs, each once, from the base or from where another run ended.

        The reference of DPO is the model that the run starts from.
        """

        def train(model: PreTrainedModel) -> None:
            reference = _reference(model, pairs)
            settings = _settings(len(pairs) // self.batch)
            train_pole(
                model, self.tokenizer, pairs, reference,
                settings=settings, max_length=_max_length(), seed=self.seed,
            )  # fmt: skip

        return self._run(name, count_tokens(pairs), train, start)

    def sft(self, name: str, answers: Sequence[TokenAnswer]) -> Run:
        """Fine-tune the base on answers, each once."""

        def train(model: PreTrainedModel) -> None:
            default = {key: value for key, value in pocket.TRAINING.items() if key != "beta"}
            steps = f"max_steps={len(answers) // self.batch}"
            settings = resolve_settings(family=SFT, default=default, assignments=(steps,))
            fine_tune(
                model, self.tokenizer, answers,
                settings=settings, max_length=_max_length(), seed=self.seed,
            )  # fmt: skip

        return self._run(name, sum(map(len, answers)), train, None)

    def _run(
        self, name: str, tokens: int, train: Callable[[PreTrainedModel], None], start: Run | None
    ) -> Run:
        if not self._path(name).exists():
            began = time.process_time()
            with quiet():
                model = load_model(self.base)
                if start is not None:
                    with torch.no_grad():
                        for key, parameter in model.named_parameters():
                            parameter.add_(start.change[key])
                train(model)
            self._keep(name, trained_weights(model), tokens, time.process_time() - began)
        return self._recall(name)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '_')}.safetensors"

    def _keep(
        self, name: str, weights: Mapping[str, torch.Tensor], tokens: int, seconds: float
    ) -> None:
        pristine = self.dials.pristine
        change = {key: weights[key] - pristine[key] for key in weights}
        partial = self._path(name).with_suffix(".partial")
        cost = {"tokens": str(tokens), "seconds": str(seconds)}
        save_file(change, partial, metadata=cost)
        partial.replace(self._path(name))
        print(f"trained {name}: {tokens:,} tokens, {seconds:.1f} s", flush=True)

    def _recall(self, name: str) -> Run:
        if name not in self.used:
            with safe_open(self._path(name), framework="pt") as file:
                change = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                cost = file.metadata()
            self.used[name] = Run(change, int(cost["tokens"]), float(cost["seconds"]))
        return self.used[name]


def repeated(pairs: Sequence[TokenPair], count: int, seed: int) -> list[TokenPair]:
    """Return `count` pairs: whole passes in new orders, then a part of one."""
    draw = random.Random(seed)
    found: list[TokenPair] = []
    while len(found) < count:
        found += draw.sample(pairs, len(pairs))
    return found[:count]


def count_tokens(pairs: Sequence[TokenPair]) -> int:
    """Return the tokens of pairs, the prompt with each of its answers."""
    return sum(
        2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs
    )


def _reference(model: PreTrainedModel, pairs: Sequence[TokenPair]) -> PairLogProbs:
    """Score pairs, those that occur again only once."""
    distinct = {id(pair): pair for pair in pairs}
    place = {key: index for index, key in enumerate(distinct)}
    found = answer_log_probs(model, list(distinct.values()))
    order = torch.tensor([place[id(pair)] for pair in pairs])
    return PairLogProbs(
        found.chosen[order],
        found.rejected[order],
        found.chosen_tokens[order],
        found.rejected_tokens[order],
    )


def _settings(steps: int) -> Settings:
    return resolve_settings(default=pocket.TRAINING, assignments=(f"max_steps={steps}",))


def _max_length() -> int:
    return int(str(pocket.TRAINING["max_length"]))
