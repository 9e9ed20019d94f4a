"""The bodies of OpenAI's API as they are taken here: each field is honoured, or refused by name."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from prefreg.errors import did_you_mean
from prefreg.serving.asking import LONGEST_STOP, MOST_STOPS
from prefreg.values import MAX_SEED
from prefreg.wording import is_unicode, presentable

MOST_TOP_LOGPROBS = 20
"""OpenAI's own limit."""
MOST_MESSAGES = 1000
MOST_CHOICES = 128
"""Answers to one request: of each of its prompts `n`."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_key": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields of OpenAI's that are not served, each with the values that ask for nothing."""


class ApiError(Exception):
    """What a request is refused with, in the envelope that clients of OpenAI read."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say what was wrong with which field; `kind` and `code` are OpenAI's words."""
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.envelope = {
            "error": {
                "message": presentable(message),
                "type": kind,
                "param": param and presentable(param),
                "code": code,
            }
        }


_NO_OBJECT = "The body is no JSON object. Send one, with Content-Type: application/json."


def _whole_text(text: str) -> str:
    if not is_unicode(text):
        raise ValueError("half of a surrogate pair is no text")
    return text


Text = Annotated[str, AfterValidator(_whole_text)]
"""Text that can be written as UTF-8, which JSON may escape halves of."""


class _Body(BaseModel):
    """A body whose fields are known; a field that is null is as good as absent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _take_known(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ApiError(400, _NO_OBJECT)
        given = {str(name): value for name, value in data.items() if value is not None}
        for name in [*given]:
            if name in cls.model_fields:
                continue
            if name not in _NEUTRAL:
                hint = did_you_mean(name, cls.model_fields)
                raise ApiError(
                    400, f"There is no field {name!r} here.{hint}", param=name, code="unknown_field"
                )
            value = given.pop(name)
            if not any(value == each and type(value) is type(each) for each in _numbers(name)):
                raise ApiError(
                    400,
                    f"{name!r} is not served: leave it out.",
                    param=name,
                    code="unsupported_parameter",
                )
        return given


def _numbers(name: str) -> tuple[Any, ...]:
    """Return the neutral values of a field; of a number also as a fraction, as clients write it."""
    found = _NEUTRAL[name]
    return (*found, *(float(each) for each in found if type(each) is int))


class ChatMessage(BaseModel):
    """One turn: who speaks and what is said, as a text or a list of texts."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Text
    content: Text

    @model_validator(mode="before")
    @classmethod
    def _take_text(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("a message is an object with 'role' and 'content'")
        for name, value in data.items():
            if name not in ("role", "content") and value is not None:
                raise ValueError(f"{name!r} of a message is not served: leave it out")
        given = {name: value for name, value in data.items() if value is not None}
        if isinstance(given.get("content"), list):
            given["content"] = "".join(map(_text_of_part, given["content"]))
        return given


def _text_of_part(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text), **more} if not more:
            return text
    raise ValueError("only parts of the form {'type': 'text', 'text': …} are served")


class StreamOptions(BaseModel):
    """What a stream tells beside the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class _Steered(_Body):
    """A body that may say how the model is steered."""

    model: Text = Field(min_length=1, max_length=4000)
    preferences: dict[str, float] | None = None
    """The coefficient of each axis; the setting is exactly this."""

    @field_validator("preferences")
    @classmethod
    def _are_finite(cls, found: dict[str, float] | None) -> dict[str, float] | None:
        for axis, eta in (found or {}).items():
            if not abs(eta) < float("inf"):
                raise ValueError(f"the coefficient {eta} of {axis!r} is not finite")
        return found


class SettingRequest(_Steered):
    """A setting that shall be written out."""


class _Answering(_Steered):
    """What chats and completions have in common."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    stop: list[Text] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Text | None = None
    """Whose request it is, which changes no answer."""

    @field_validator("stop", mode="before")
    @classmethod
    def _list_stops(cls, found: Any) -> list[str]:
        stops = [found] if isinstance(found, str) else found
        if not isinstance(stops, list) or not all(isinstance(each, str) for each in stops):
            raise ValueError("it is neither a text nor a list of texts")
        if len(stops) > MOST_STOPS or any(not 0 < len(each) <= LONGEST_STOP for each in stops):
            raise ValueError(f"it takes at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} letters")
        return stops

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options are for stream: true.", param="stream_options")
        return self

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_Answering):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)
    chat_template_kwargs: dict[str, Any] | None = None
    """What the chat template is told; else what it was told when the vectors were trained."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _can_be_written(cls, found: dict[str, Any] | None) -> dict[str, Any] | None:
        _whole_text(json.dumps(found, ensure_ascii=False))
        return found

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ApiError(
                400,
                "max_tokens and max_completion_tokens differ: give one of them.",
                param="max_tokens",
            )
        return self

    @property
    def most_tokens(self) -> int | None:
        """Return the limit of the answer's tokens by either of its names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """Return how many likeliest tokens are told beside the chosen one; None: no logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Answering):
    """The body of /v1/completions."""

    prompt: list[Text | list[int]]
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP_LOGPROBS)

    @field_validator("prompt", mode="before")
    @classmethod
    def _list_prompts(cls, found: Any) -> Sequence[Any]:
        """Read a text, token ids, or a list of either."""
        single = isinstance(found, str) or (isinstance(found, list) and _is_ids(found))
        prompts = [found] if single else found
        if (
            not isinstance(prompts, list)
            or not prompts
            or not all(isinstance(each, str) or _is_ids(each) for each in prompts)
        ):
            raise ValueError(
                "it is a text, a list of texts, a list of token ids, or a list of those, and not "
                "empty"
            )
        if len(prompts) > MOST_CHOICES:
            raise ValueError(f"it takes at most {MOST_CHOICES} prompts at once")
        return prompts

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not self.max_tokens and not self.echo:
            raise ApiError(400, "max_tokens: 0 is for echo: true.", param="max_tokens")
        return self


def _is_ids(found: Any) -> bool:
    return isinstance(found, list) and bool(found) and all(type(each) is int for each in found)


class OwedRequest(_Body):
    """The body of /v1/owed: an answer whose tokens are told what they owe to an axis."""

    axis: Text = Field(min_length=1, max_length=400)
    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    answer: Text = Field(min_length=1)
    chat_template_kwargs: dict[str, Any] | None = None


class PresetRequest(_Body):
    """The body of PUT /v1/presets/NAME: terms as on the command line, or a coefficient an axis."""

    terms: list[Text] | dict[str, float]
    note: Text | None = None


def refusal(errors: Sequence[Any]) -> ApiError:
    """Make the error that a body does not pass, from the first thing that pydantic found."""
    first = errors[0]
    kind, place = first["type"], [each for each in first["loc"] if each != "body"]
    if kind == "json_invalid":
        why = (first.get("ctx") or {}).get("error", "")
        return ApiError(400, f"The body is no JSON: {why}.", code="invalid_json")
    if not place:
        return ApiError(400, _NO_OBJECT)
    param = "".join(
        f"[{each}]" if isinstance(each, int) else f".{each}" if at else str(each)
        for at, each in enumerate(place)
    )
    if kind == "missing":
        return ApiError(400, f"The field {param!r} is missing.", param=param)
    what = first["msg"].removeprefix("Value error, ").rstrip(".")
    return ApiError(400, f"{param}: {what[0].lower()}{what[1:]}.", param=param)
