"""Turn the parameters of a loaded model by vectors, always from the pristine values."""

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload
from weakref import WeakKeyDictionary

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.axis import Message, Text, merge_options, read_message
from prefreg.checkpoints import BaseModel, Checkpoint, resolve_base
from prefreg.checkpoints.tensor_names import TRAINABLE_DTYPES
from prefreg.composition.compose import compose
from prefreg.composition.composition_request import CompositionRequest
from prefreg.composition.engine import compose_tensor, require_finite
from prefreg.composition.implicit_reward import RankedAnswer, implicit_rewards
from prefreg.composition.output import Composed
from prefreg.composition.plan import rounded_eta
from prefreg.composition.resolve import (
    ResolvedTerm,
    base_spec,
    identify,
    range_warnings,
    refuse_mixed_contrasts,
    resolve_on,
    resolve_terms,
    trained_options,
)
from prefreg.data.templates import check_options
from prefreg.errors import (
    BaseModelError,
    DataError,
    RangeWarning,
    UsageError,
    VectorError,
    listed,
)
from prefreg.models.conversion import (
    Conversion,
    Fusion,
    Tensors,
    open_conversion,
    read_stored,
)
from prefreg.models.generation import Answer, sample
from prefreg.models.loading import load_model, load_tokenizer, on_gpu, quiet
from prefreg.models.sampling import Sampling
from prefreg.plain_yaml import read_assignments
from prefreg.registry import Access, Store, VersionRecord
from prefreg.requests import make_request
from prefreg.terms import Term, as_terms, parse_dial
from prefreg.vectors import Vector, open_vector
from prefreg.vectors.dense import DenseVector
from prefreg.vectors.tensors import TORCH_DTYPES, TensorSource, read_tensor

if TYPE_CHECKING:
    from prefreg.composition.fused import FusedSums
    from prefreg.composition.sums_in_memory import CompiledSums

_DIALS = "prefreg_dials"
"""Under this name a loaded model knows its dials, and so its pristine weights."""
_SPARED = 0.1
"""The share of memory that kept vectors leave free, for whatever the model is asked."""


class Dials:
    """A loaded model whose weights can be set to θ_base + Σ ηᵢ·φᵢ and back.

    The pristine weights are kept beside the model, which doubles its memory. Every setting is
    computed from them: adding and taking away in place would drift. Dense vectors that were read
    once are kept in memory too, on a GPU in its own, as long as it has room.
    """

    def __init__(
        self, model: PreTrainedModel, conversion: Conversion, base: BaseModel | None = None
    ) -> None:
        """Keep the pristine weights of `model`.

        `conversion` says how they lie on disk, where vectors have their names from; `base` is what
        the weights are those of.
        """
        self.model = model
        self.base = base
        self.conversion = conversion
        self._standing: tuple[ScaledVector, ...] = ()
        self._pristine = {name: each.clone() for name, each in conversion.weights(model).items()}
        self._mixed = len({each.dtype for each in self._pristine.values()}) > 1
        self._finer = _finer_than_loaded(self._pristine, conversion, base)
        self._kept: WeakKeyDictionary[Vector, dict[str, torch.Tensor]] = WeakKeyDictionary()

    @property
    def pristine(self) -> Mapping[str, torch.Tensor]:
        """Return the weights of the base by their names in memory; nobody may change them."""
        return self._pristine

    def apply(self, terms: Sequence[tuple[float, TensorSource]]) -> None:
        """Set every weight to the composition of `terms`, given in canonical order."""
        for _, vector in terms:
            self._require_reach(vector)
        fused = _fused_sums(self.model)
        try:
            scaled = [(rounded_eta(eta), vector, set(vector.names)) for eta, vector in terms]
            weights = self.conversion.weights(self.model)
            taken_apart = self.conversion.fused
            for name, weight in weights.items():
                if name in taken_apart:
                    continue
                base, stored = self._pristine[name], self.conversion.names.get(name)
                parts = self._parts(stored, scaled, base.device)
                plain = not self._mixed and stored not in self._finer
                if fused is not None and parts and plain and fused.takes(weight, len(parts)):
                    fused.write(weight, base, parts)
                else:
                    weight.copy_(self._compose(stored or name, base, parts))
            for fusion in self.conversion.fusions:
                for name, weight in self._compose_stored(fusion, scaled).items():
                    weights[name].copy_(weight)
            # On a CPU this waits for what is not yet written.
            if fused is not None and fused.spoilt:
                for name, weight in weights.items():
                    require_finite(name, weight, self._pristine[name])
        except BaseException:
            if fused is not None:
                _ = fused.spoilt  # so that nothing is written any more
            self.restore()
            raise

    def turn(self, terms: Sequence["ScaledVector"]) -> None:
        """Set the weights to a composition that is remembered as standing."""
        self.apply([(term.eta, term.vector) for term in terms])
        self._standing = tuple(terms)

    @contextmanager
    def adding(self, terms: Sequence["ScaledVector"]) -> Iterator[None]:
        """Add terms to those that stand; afterwards what stood before stands again, bit for bit."""
        with self.turning():
            self.turn(_sum_terms(self._standing, terms))
            yield

    @contextmanager
    def turning(self) -> Iterator[None]:
        """Let the weights be turned in any way; afterwards what stood before stands again."""
        before = self._standing
        try:
            yield
        finally:
            self.turn(before)

    def restore(self) -> None:
        """Give every parameter its pristine value, bit for bit."""
        self._standing = ()
        for name, weight in self.conversion.weights(self.model).items():
            weight.copy_(self._pristine[name])

    def _compose_stored(self, fusion: Fusion, scaled: Sequence["_Scaled"]) -> Tensors:
        """Compose the stored tensors that weights are made of, and make the weights of them."""
        pristine = {name: self._pristine[name] for name in fusion.weights}
        if not any(eta and names.intersection(fusion.stored) for eta, _, names in scaled):
            return pristine
        return fusion.load(
            {
                name: self._compose(name, base, self._parts(name, scaled, base.device))
                for name, base in fusion.store(pristine).items()
            }
        )

    def _compose(
        self, stored: str, base: torch.Tensor, parts: Sequence[tuple[float, torch.Tensor]]
    ) -> torch.Tensor:
        """Compose a stored tensor as a composition does: rounded to the dtype that it writes.

        Some models keep weights in float32 that are stored in bfloat16, beside others as stored;
        others are loaded in bfloat16 although some weights are stored in float32.
        """
        dtype, exact = base.dtype, base
        if parts and stored in self._finer:
            exact = self._finer[stored]
            dtype = exact.dtype
        elif parts and self._mixed and self.base is not None:
            dtype = TORCH_DTYPES[self.base.checkpoint.tensors[stored].spec.dtype]
        composed = compose_tensor(exact, [(eta, phi.float()) for eta, phi in parts], dtype)
        loaded = composed.to(base.dtype)
        require_finite(stored, loaded, base)
        return loaded

    def _parts(
        self, stored: str | None, scaled: Sequence["_Scaled"], device: torch.device
    ) -> list[tuple[float, torch.Tensor]]:
        """Return coefficient and φ of all terms that change a stored tensor."""
        return [
            (eta, self._read(vector, stored, device))
            for eta, vector, names in scaled
            if eta and stored is not None and stored in names
        ]

    def _require_reach(self, vector: TensorSource) -> None:
        """Refuse a vector that changes what this model has not, such as a tower for images."""
        beyond = set(vector.names) - self.conversion.stored
        if changed := [name for name in beyond if vector.tensor(name).any()]:
            raise VectorError(
                f"The vector changes {listed(changed)}, which the loaded model has not. "
                "Compose a checkpoint and load that."
            )

    def _read(self, vector: TensorSource, name: str, device: torch.device) -> torch.Tensor:
        """Return a weight's φ on a device, from what is kept there if it is."""
        if not isinstance(vector, DenseVector):
            return vector.tensor(name).to(device)
        kept = self._kept.get(vector, {}).get(name)
        if kept is not None:
            return kept
        shape = vector.shape(name)
        phi = vector.stored.read(name, 0, math.prod(shape)).to(device).reshape(shape)
        if _has_room(device):
            self._kept.setdefault(vector, {})[name] = phi
        return phi


def _has_room(device: torch.device) -> bool:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free > _SPARED * total
    memory = psutil.virtual_memory()
    return bool(memory.available > _SPARED * memory.total)


def _finer_than_loaded(
    pristine: Mapping[str, torch.Tensor], conversion: Conversion, base: BaseModel | None
) -> Tensors:
    """Read what is stored more finely than it was loaded, by its names on disk.

    A composition adds to the stored values, and is rounded when it is loaded.
    """
    if base is None:
        return {}
    loaded = {stored: pristine[n] for n, stored in conversion.names.items() if n in pristine}
    for fusion in conversion.fusions:
        loaded |= dict.fromkeys(fusion.stored, pristine[fusion.weights[0]])
    finer = [
        name
        for name, weight in loaded.items()
        if (dtype := base.checkpoint.tensors[name].spec.dtype) in TRAINABLE_DTYPES
        and torch.promote_types(TORCH_DTYPES[dtype], weight.dtype) != weight.dtype
    ]
    return {n: each.to(loaded[n].device) for n, each in read_stored(finer, base.checkpoint)}


_Scaled = tuple[float, TensorSource, set[str]]
"""A coefficient, its vector, and the names that the vector has."""


def _fused_sums(model: PreTrainedModel) -> "FusedSums | CompiledSums | None":
    """Return what composes the weights of a model, each number moved once."""
    if model.device.type == "cpu":
        from prefreg.composition.sums_in_memory import CompiledSums  # loads numba

        return CompiledSums()
    if model.device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    from prefreg.composition.fused import FusedSums  # loads Triton

    return FusedSums()


class ScaledVector(NamedTuple):
    """An opened vector with its version and coefficient."""

    record: VersionRecord
    eta: float
    vector: Vector
    since: int | None = None
    """As in `Term`."""


def _sum_terms(first: Sequence[ScaledVector], second: Sequence[ScaledVector]) -> list[ScaledVector]:
    """Add up the coefficients of equal vectors; the result is in canonical order."""
    found: dict[tuple[str, str], ScaledVector] = {}
    for term in (*first, *second):
        key = (term.record.axis, term.record.sha256)
        known = found.get(key)
        found[key] = term if known is None else term._replace(eta=known.eta + term.eta)
    return [found[key] for key in sorted(found) if found[key].eta]


Resolver = Callable[[Sequence[Term]], Sequence[ScaledVector]]
"""Find the vectors of terms on this model's base, in canonical order."""
Writer = Callable[[CompositionRequest], Composed]
"""Write a composition as a checkpoint."""
Turns = Sequence[Message | Mapping[str, Any]]
"""A dialogue, each turn a mapping of `role` and `content`; the model answers the last one."""


class SteeredModel:
    """A loaded base model whose dials can be set again and again."""

    def __init__(
        self,
        dials: Dials,
        tokenizer: PreTrainedTokenizerBase,
        resolve: Resolver,
        write: Writer,
    ) -> None:
        """Put dials, a tokenizer, and the ways to find vectors and to write them together."""
        self._dials = dials
        self._resolve = resolve
        self._write = write
        self._standing: tuple[ScaledVector, ...] = ()
        self.tokenizer = tokenizer
        self.terms: tuple[Term, ...] = ()

    def __repr__(self) -> str:
        base = self._dials.base
        dials = " ".join(map(str, self.terms)) or "every dial at 0"
        return f"<SteeredModel of {base.name if base else 'a base'}: {dials}>"

    @property
    def model(self) -> PreTrainedModel:
        """Return the transformers model with its present weights."""
        return self._dials.model

    def set(self, terms: Mapping[str, float] | Sequence[str | Term] = (), **etas: float) -> Self:
        """Set the dials; an axis that is not named is at 0.

        Axes are named as keywords (`helpful=1`) or, with a version, as a mapping or terms
        (`{"helpful@2": 1}`, `["helpful@2:1"]`).
        """
        wanted = (*as_terms(terms), *as_terms(etas))
        found = tuple(self._resolve(wanted))
        self._dials.turn(found)
        self._standing, self.terms = found, wanted
        _warn(self.warnings)
        return self

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say which dials stand beyond the range of their version."""
        return tuple(range_warnings(self._standing))

    @overload
    def generate(
        self, prompts: str | Turns, sampling: Sampling | None = None, **options: Any
    ) -> str: ...

    @overload
    def generate(
        self,
        prompts: list[str] | tuple[str, ...] | Sequence[Turns],
        sampling: Sampling | None = None,
        **options: Any,
    ) -> list[str]: ...

    def generate(
        self,
        prompts: str | Turns | Sequence[str | Turns],
        sampling: Sampling | None = None,
        *,
        template_options: Sequence[str] | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> str | list[str]:
        """Answer a prompt, or each of a list of prompts, which is done in batches.

        A prompt is a text, which the user says, or a list of messages, mappings of `role` and
        `content`. The chat template is told the options given, as `{"enable_thinking": False}`,
        or else what it was told when the vectors were trained. Further options are the fields of
        `Sampling`, such as `temperature` and `seed`.

        Raises:
            UsageError: An option is unknown or out of measure, a prompt is neither, or the
                vectors were trained with different template options.
            BaseModelError: A prompt and its answer do not fit the model's context.
        """
        drawn = self._sampling(sampling, options)
        asked, single = _as_prompts(prompts)
        found = self._draw(asked, drawn, template_options)
        answers = [each.text for each in found]
        return answers[0] if single else answers

    @overload
    def best_of(
        self, prompts: str | Turns, count: int, *, by: str | Term, **options: Any
    ) -> list[RankedAnswer]: ...

    @overload
    def best_of(
        self,
        prompts: list[str] | tuple[str, ...] | Sequence[Turns],
        count: int,
        *,
        by: str | Term,
        **options: Any,
    ) -> list[list[RankedAnswer]]: ...

    def best_of(
        self,
        prompts: str | Turns | Sequence[str | Turns],
        count: int,
        *,
        by: str | Term,
        sampling: Sampling | None = None,
        template_options: Sequence[str] | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[RankedAnswer] | list[list[RankedAnswer]]:
        """Draw `count` answers to a prompt, or to each of a list, and rank them, the best first.

        `by` is the axis that judges, as in `"harmless"` or `"harmless@2"`; see `implicit_reward`.
        Answers are drawn at temperature 1 unless an option says otherwise.

        Raises:
            UsageError: There are fewer than two answers to draw, or all would be the same.
            RegistryError: The axis has no version on this base.
        """
        if sampling is None:
            options = {"temperature": 1.0} | options
        drawn = self._sampling(sampling, options)
        if count < 2 or drawn.temperature == 0:
            raise UsageError(
                f"The best of {count} at temperature {drawn.temperature:g} is the only answer: "
                "draw two or more, at a temperature above 0."
            )
        judges = self._resolve([replace(parse_dial(by) if isinstance(by, str) else by, eta=1.0)])
        if len(judges) != 1:
            raise UsageError(f"{by} is no single axis: name one that judges.")
        asked, single = _as_prompts(prompts)
        found = self._draw([each for each in asked for _ in range(count)], drawn, template_options)

        def turn(eta: float) -> PreTrainedModel:
            self._dials.turn([judges[0]._replace(eta=eta)] if eta else [])
            return self.model

        texts = [(each.prompt_ids, each.ids) for each in found]
        with self._dials.turning():
            rewards = implicit_rewards(turn, texts, judges[0].record)
        ranked = [
            RankedAnswer(answer.text, reward) for answer, reward in zip(found, rewards, strict=True)
        ]
        groups = [
            sorted(ranked[start : start + count], key=lambda each: -each.reward.value)
            for start in range(0, len(ranked), count)
        ]
        return groups[0] if single else groups

    def _sampling(self, sampling: Sampling | None, options: Mapping[str, Any]) -> Sampling:
        own = {} if sampling is not None else self._defaults(options)
        return make_request(Sampling, sampling, **own, **options)

    def _draw(
        self,
        asked: Sequence[Text],
        drawn: Sampling,
        template_options: Sequence[str] | Mapping[str, Any] | None,
    ) -> list[Answer]:
        if template_options is None:
            template_options = trained_options(each.record for each in self._standing)
        wanted = read_assignments(template_options)
        check_options(self.tokenizer, wanted)
        told = "", merge_options(wanted, "")
        return sample(self.model, self.tokenizer, asked, drawn, told=[told] * len(asked))

    def _defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the base draws by where an option asks for drawing and leaves one out."""
        base = self._dials.base
        drawing = options.get("temperature", "top_p" in options)
        if not drawing or base is None or base.bundled is None:
            return {}
        return {key: at for key, at in base.bundled.sampling.items() if key not in options}

    def save_pretrained(self, folder: str | Path, **options: Any) -> Composed:
        """Write what `Registry.compose` writes for these dials: a checkpoint with its recipe.

        Further options are those of `compose`, such as `overwrite`.

        Raises:
            UsageError: No dial is turned.
            PrefregError: Whatever `compose` raises.
        """
        if not self._standing:
            raise UsageError(
                f"No dial of {self!r} is turned: there is nothing to write but the base."
            )
        terms = tuple(
            Term(each.record.axis, each.eta, str(each.record.number)) for each in self._standing
        )
        return self._write(make_request(CompositionRequest, terms, output=folder, **options))


def _warn(texts: Iterable[str]) -> None:
    for text in texts:
        warnings.warn(text, RangeWarning, stacklevel=3)


def _as_prompts(prompts: Any) -> tuple[list[Text], bool]:
    """Return prompts as turns, and whether it was a single one."""
    several = isinstance(prompts, list | tuple) and not isinstance(prompts, Message)
    single = not several or any(isinstance(each, Message | Mapping) for each in prompts)
    return [_as_turns(each) for each in ([prompts] if single else prompts)], single


def _as_turns(prompt: Any) -> Text:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    try:
        return tuple(
            each if isinstance(each, Message) else read_message(each, "prompt") for each in prompt
        )
    except (DataError, TypeError) as error:
        raise UsageError(
            "A prompt is a text, or a list of messages such as "
            f"{{'role': 'user', 'content': 'Hello'}}, not {prompt!r}."
        ) from error


def load_steered(
    access: Access, terms: Sequence[Term], base: str | None, at: datetime | None = None
) -> SteeredModel:
    """Load a base model with dials, set to `terms`; `at` looks versions up as of a moment."""
    if base is not None and not terms:
        found = resolve_base(base)  # needs no registry: the base may be used as it is
    else:
        with access.reading() as store:
            found = resolve_terms(store, terms, base, at=at).base
    with quiet():
        model, tokenizer = on_gpu(load_model(found, "auto")), load_tokenizer(found)
    model.train(False)
    dials = make_dials(model, found)
    vars(model)[_DIALS] = dials
    shelf = VectorShelf(found, access, at)

    def write(request: CompositionRequest) -> Composed:
        return compose(access, replace(request, base=base_spec(identify(found))))

    return SteeredModel(dials, tokenizer, shelf.find, write).set(terms)


@contextmanager
def steer_loaded(
    model: PreTrainedModel, terms: Sequence[Term], base: str | None, access: Access
) -> Iterator[None]:
    """Turn the weights of a loaded model, and give them back bit for bit.

    On a model that is steered already, the terms are added to those that stand.
    """
    known = vars(model).get(_DIALS)
    spec = base or (known.base.name if known else model.config.name_or_path)
    if not spec:
        raise UsageError("The model does not say where it came from; name its base with base=.")
    found = resolve_base(spec)
    if known is None:
        conversion = open_conversion(model, found, loaded=False)
        dials = Dials(model, conversion, found)
        check_same_weights(model, dials, found)
    elif known.base.fingerprint.weights != found.fingerprint.weights:
        raise BaseModelError(
            f"The model is steered from the base {known.base.name}, not from {found.name}. "
            "Leave base= out."
        )
    else:
        dials = known
    vectors = VectorShelf(found, access).find(terms)
    vars(model)[_DIALS] = dials
    try:
        with dials.adding(vectors):
            _warn(range_warnings(vectors))
            yield
    finally:
        if known is None:
            # Whoever trains the model further must not get these weights back.
            del vars(model)[_DIALS]


def make_dials(model: PreTrainedModel, base: BaseModel, *, whole: bool = False) -> Dials:
    """Put dials on a model that was loaded from `base`.

    With `whole` every parameter must be known by its name on disk, so that all can be compared.
    """
    return Dials(model, open_conversion(model, base, whole=whole), base)


def check_same_weights(model: PreTrainedModel, dials: Dials, base: BaseModel) -> None:
    """Compare a loaded model with its base on disk, each tensor in the model's dtype."""
    weights = dials.conversion.weights(model)
    for name, loaded in _load_again(dials.conversion, base.checkpoint):
        if not torch.equal(loaded.to(weights[name].dtype), weights[name].cpu()):
            raise BaseModelError(
                f"The loaded model is not the base {base.name}: tensor {name!r} differs. "
                "Steer the untouched base model, or name another with base=."
            )


def _load_again(
    conversion: Conversion, checkpoint: Checkpoint
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, stored in conversion.names.items():
        yield name, read_tensor(checkpoint.tensors[stored])
    for fusion in conversion.fusions:
        yield from fusion.load(dict(read_stored(fusion.stored, checkpoint))).items()


class VectorShelf:
    """Finds the vectors of terms on one base, and keeps those it has opened.

    What a term means is looked up again when the registry has changed, and no longer when it is
    gone.
    """

    def __init__(
        self,
        base: BaseModel,
        access: Access,
        at: datetime | None = None,
        *,
        phases: bool = False,
    ) -> None:
        """Look vectors of `base` up in the registry, as of a moment where one is given.

        Terms that act on a part of an answer are refused without `phases`.
        """
        self._base = base
        self._access = access
        self._at = at
        self._phases = phases
        self._vectors: dict[str, Vector] = {}
        self._meant: dict[Term, tuple[ResolvedTerm, ...]] = {}
        self._mark: tuple[object, ...] | None = None

    def __call__(self, terms: Sequence[Term]) -> list[tuple[float, Vector]]:
        """Return coefficient and vector of every term that is not at 0, in canonical order."""
        return [(term.eta, term.vector) for term in self.find(terms)]

    def find(self, terms: Sequence[Term]) -> list[ScaledVector]:
        """Return the vector of every term that is not at 0, in canonical order."""
        if not terms:
            return []  # needs no registry
        found = self._recall(terms)
        if found is None:
            with self._access.reading() as store:
                found = self._resolve(store, terms)
                for term in terms:
                    self._meant[_unscaled(term)] = self._resolve(store, [term])
                for each in found:
                    if each.record.sha256 not in self._vectors:
                        source = store.vector_source(each.record)
                        self._vectors[each.record.sha256] = open_vector(
                            source, kind=each.record.kind, label=f"The vector of {each.record}"
                        )
        turned = [term for term in found if term.eta]
        refuse_mixed_contrasts([term.record for term in turned])
        return [
            ScaledVector(term.record, term.eta, self._vectors[term.record.sha256], term.since)
            for term in turned
        ]

    def _resolve(self, store: Store, terms: Sequence[Term]) -> tuple[ResolvedTerm, ...]:
        weights = self._base.fingerprint.weights
        return resolve_on(store, terms, weights, self._at, phases=self._phases)

    def _recall(self, terms: Sequence[Term]) -> tuple[ResolvedTerm, ...] | None:
        """Return what terms mean where that is known; None where the registry has to say it."""
        mark = self._access.mark()
        if mark != self._mark and mark != ():
            self._meant.clear()
            self._mark = mark
        known = [self._meant.get(_unscaled(term)) for term in terms]
        if mark is None or None in known:
            return None
        found = [
            each if term.preset else replace(each, eta=term.eta)
            for term, meant in zip(terms, known, strict=True)
            for each in meant or ()
        ]
        if len({each.record.axis for each in found}) < len(found):
            return None  # which it will refuse
        return tuple(sorted(found, key=lambda each: each.record.axis))


def _unscaled(term: Term) -> Term:
    return term if term.preset else replace(term, eta=1.0)
