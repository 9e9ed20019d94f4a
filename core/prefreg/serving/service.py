"""From the body of a request to what is asked of the live model, within the server's limits."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from prefreg.axes.axis import Message
from prefreg.composition.in_memory import ScaledVector
from prefreg.composition.resolve import base_spec, identify, range_warnings
from prefreg.errors import PrefregError, RegistryError, did_you_mean
from prefreg.evaluation.candidates import write_formula
from prefreg.registry import Access
from prefreg.serving.asking import Ask
from prefreg.serving.dial_listing import DialListing
from prefreg.serving.live_model import LiveModel
from prefreg.serving.model_names import model_name, parse_setting, setting_in
from prefreg.serving.openai_api import (
    MOST_CHOICES,
    ApiError,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    OwedRequest,
    PresetRequest,
)
from prefreg.serving.replies import Kind, Reply
from prefreg.serving.serving_request import ServingRequest
from prefreg.serving.telling import Metrics
from prefreg.terms import Term, as_terms, brief_eta, parse_reference
from prefreg.values import MAX_SEED

MOST_TERMS = 64
"""Of a request: an unknown one is looked for in the whole registry."""
DEFAULT_TOKENS = 512
"""Of an answer where the client names no limit."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting with the versions that it means."""

    terms: tuple[Term, ...]
    told: dict[str, Any]
    """What is told of it: formula, terms, the name and the command that mean it, warnings."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was found in order: what to ask, and what its reply begins with."""

    asks: tuple[Ask, ...]
    reply: Reply


class Service:
    """What the routes have in common: names, settings, and requests made of bodies."""

    def __init__(self, live: LiveModel, access: Access, request: ServingRequest) -> None:
        """Serve a live model with the limits of a request."""
        self.live = live
        self.access = access
        self.limits = request
        self.metrics = Metrics(live.state)
        self.dials = DialListing(live.base, access)
        self.began = int(time.time())
        spec = base_spec(identify(live.base))
        self.name = Path(spec).name if Path(spec).is_absolute() else spec
        self.names = {self.name, spec, live.base.name}
        self.spec = spec
        self._lasting = 1.0
        bundled = live.base.bundled
        self.sampling = {"temperature": 1.0, "top_p": 1.0, **(bundled.sampling if bundled else {})}
        world = bundled.world if bundled else None
        self.examples = (
            []
            if world is None
            else [
                text
                for kind in world.kinds
                for text in world.prompts(kind, split="test", limit=1, seed=0)
            ]
        )
        """What may be asked of a base that knows a closed world: a prompt of each kind."""

    def setting(self, model: str, preferences: Mapping[str, float] | None) -> Setting:
        """Find the setting that a request means: by its model's name, its preferences, or neither.

        Raises:
            ApiError: There is no such model, the setting is given twice or is out of bounds.
            PrefregError: A term is malformed or has no version on this base.
        """
        try:
            behind = setting_in(model, self.names)
        except LookupError:
            raise ApiError(
                404,
                f"There is no model {model!r} here. There is {self.name!r}, and with a setting, as "
                f"in {self.name}+AXIS:ETA,AXIS:ETA.{did_you_mean(model, self.names)}",
                param="model",
                code="model_not_found",
            ) from None
        if behind is not None and preferences is not None:
            raise ApiError(
                400,
                "The setting is given twice, by the model's name and by preferences: leave one "
                "out.",
                param="preferences",
            )
        if behind is not None:
            return self.check(parse_setting(behind), "model")
        if preferences is not None:
            return self.check(as_terms(preferences), "preferences")
        return self.check(self.live.terms, "model")

    def check(self, terms: Sequence[Term], param: str) -> Setting:
        """Look the versions of terms up, and say what the setting is."""
        if len(terms) > MOST_TERMS:
            raise ApiError(
                400, f"A setting takes at most {MOST_TERMS} terms, not {len(terms)}.", param=param
            )
        found = self.live.check(terms)
        limit = self.limits.max_eta
        for each in found:
            if abs(each.eta) > limit:
                raise ApiError(
                    400,
                    f"The coefficient {brief_eta(each.eta)} of {each.record.axis!r} is out of "
                    f"bounds: this server takes -{brief_eta(limit)} to {brief_eta(limit)}.",
                    param=param,
                    code="eta_out_of_range",
                )
        return self._describe(found)

    def _describe(self, found: Sequence[ScaledVector]) -> Setting:
        terms = tuple(
            Term(each.record.axis, each.eta, str(each.record.number), each.since) for each in found
        )
        names = [f"{each.record}{term.phase}" for each, term in zip(found, terms, strict=True)]
        # Weights that are written act on all of an answer.
        verb = "chat" if any(term.phase for term in terms) else "compose"
        command = ["prefreg", verb, *map(str, terms), "--base", self.spec]
        if self.access.location is not None:
            command += ["--registry", self.access.place]
        etas = [each.eta for each in found]
        return Setting(
            terms,
            {
                "formula": write_formula(zip(etas, names, strict=True)),
                "terms": list(map(str, terms)),
                "model": model_name(self.name, terms),
                "command": shlex.join(command) if terms else None,
                "warnings": range_warnings(found),
            },
        )

    def prepare_chat(self, body: ChatRequest) -> Prepared:
        """Make asks of the body of a chat."""
        setting = self.setting(body.model, body.preferences)
        prompt = self.live.render(
            _turns(body.messages), body.chat_template_kwargs, terms=setting.terms
        )
        tokens = self._most_tokens(len(prompt), body.most_tokens, "max_tokens")
        return self._prepare(body, setting, [prompt], tokens, body.top, "chat.completion")

    def prepare_completion(self, body: CompletionRequest) -> Prepared:
        """Make asks of the body of a completion."""
        setting = self.setting(body.model, body.preferences)
        prompts = [
            self.live.encode(each) if isinstance(each, str) else tuple(each) for each in body.prompt
        ]
        if not all(prompts):
            raise ApiError(400, "The prompt is empty.", param="prompt")
        for prompt in prompts:
            self._most_tokens(len(prompt), body.max_tokens, "prompt")
        return self._prepare(
            body,
            setting,
            prompts,
            body.max_tokens,
            body.logprobs,
            "text_completion",
            echo=body.echo,
        )

    def _prepare(
        self,
        body: ChatRequest | CompletionRequest,
        setting: Setting,
        prompts: Sequence[tuple[int, ...]],
        tokens: int,
        top: int | None,
        kind: Kind,
        *,
        echo: bool = False,
    ) -> Prepared:
        count = len(prompts) * body.n
        if count > min(MOST_CHOICES, self.limits.max_waiting):
            raise ApiError(
                400,
                f"{count} answers are more than the {min(MOST_CHOICES, self.limits.max_waiting)} "
                "that one request may ask for.",
                param="n",
            )
        given = body.model_fields_set
        drawn = dict(self.sampling)
        drawn |= {name: getattr(body, name) for name in drawn if name in given}
        asks = tuple(
            Ask(
                prompt=prompt,
                terms=setting.terms,
                max_tokens=tokens,
                seed=_seed(body.seed, number),
                stop=tuple(body.stop),
                top_logprobs=top,
                echo=echo,
                **drawn,
            )
            for prompt in prompts
            for number in range(body.n)
        )
        reply = Reply(kind, body.model, setting.told, sum(map(len, prompts)), top)
        return Prepared(asks, reply)

    def _most_tokens(self, prompt: int, wanted: int | None, param: str) -> int:
        """Return how long an answer may become; a prompt and what is wanted must fit."""
        limit, context = self.limits.max_tokens, self.live.context
        if wanted is not None and wanted > limit:
            raise ApiError(
                400,
                f"max_tokens {wanted} is above this server's limit of {limit}.",
                param="max_tokens",
            )
        room = limit if context is None else context - prompt
        if room < (1 if wanted is None else wanted):
            asked = "" if wanted is None else f" and {wanted} of an answer"
            raise ApiError(
                400,
                f"The prompt of {prompt} tokens{asked} does not fit the model's context of "
                f"{context} tokens: shorten it, or ask for fewer.",
                param=param,
                code="context_length_exceeded",
            )
        return min(DEFAULT_TOKENS, limit, room) if wanted is None else wanted

    def prepare_owed(self, body: OwedRequest) -> tuple[list[Ask], int]:
        """Make the asks that score an answer at the base ± φ/2, and say where the answer begins."""
        axis, reference = parse_reference(body.axis)
        prompt = self.live.render(
            _turns(body.messages), body.chat_template_kwargs, terms=(Term(axis, 1.0, reference),)
        )
        written = self.live.tokenizer(body.answer, add_special_tokens=False, verbose=False)
        whole = (*prompt, *written["input_ids"])
        self._most_tokens(len(whole), 0, "answer")
        asks = [
            Ask(
                prompt=whole,
                terms=(Term(axis, eta, reference),),
                max_tokens=0,
                top_logprobs=0,
                echo=True,
            )
            for eta in (0.5, -0.5)
        ]
        return asks, len(prompt)

    def note(self, *, first: float | None = None, whole: float | None = None) -> None:
        """Take note of the seconds until an answer's first piece, or its last."""
        if first is not None:
            self.metrics.first_token(first)
        if whole is not None:
            self._lasting += (whole - self._lasting) / 8  # the mean of the last few

    def wait(self) -> int:
        """Guess in how many seconds those that wait now will have been served."""
        state = self.live.state()
        rounds = 1 + state.waiting / max(1, state.running)
        return max(1, min(60, round(rounds * self._lasting)))

    def models(self) -> list[dict[str, Any]]:
        """Return the model with the setting that stands, and with each preset that fits it."""
        own = self._model(self.name, self.check(self.live.terms, "model"))
        return [own, *(each.pop("shown") for each in self.presets() if each["shown"])]

    def presets(self) -> list[dict[str, Any]]:
        """Return every preset, and what the model with it is called where it fits this base."""
        if not self.access.is_present():
            return []
        with self.access.reading() as store:
            found = store.presets()
        return [each.to_json() | {"shown": self._with_preset(each.name)} for each in found]

    def _with_preset(self, name: str) -> dict[str, Any] | None:
        term = Term(name, 1.0, preset=True)
        try:
            return self._model(model_name(self.name, [term]), self.check([term], "model"))
        except (ApiError, PrefregError):  # it is for another base, or beyond what is served
            return None

    def save_preset(self, name: str, body: PresetRequest) -> dict[str, Any]:
        """Save a setting under a name, which is a model's from then on."""
        terms = as_terms(body.terms)
        self.check(terms, "terms")
        with self.access.reading() as store:
            try:
                store.check_preset(name, terms)  # before a registry is created
            except RegistryError as error:
                raise ApiError(409, str(error), code="name_taken") from error
        with self.access.writing() as store:
            return store.save_preset(name, terms, body.note).to_json()

    def remove_preset(self, name: str) -> dict[str, Any]:
        """Remove a preset."""
        with self.access.changing() as store:
            return store.remove_preset(name).to_json()

    def model(self, name: str) -> dict[str, Any]:
        """Return what is known of a model, whatever setting its name says."""
        return self._model(name, self.setting(name, None))

    def _model(self, name: str, setting: Setting) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.began,
            "owned_by": "prefreg",
            "max_model_len": self.live.context,
            "prefreg": setting.told,
        }


def _turns(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    return tuple(Message(each.role, each.content) for each in messages)


def _seed(seed: int | None, number: int) -> int | None:
    """Return the seed of one of several answers; that of the first is the one given."""
    if seed is None or not number:
        return None if seed is None else seed & MAX_SEED
    return int.from_bytes(sha256(f"{seed} {number}".encode()).digest()[:8]) & MAX_SEED
