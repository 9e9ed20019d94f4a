"""An OpenAI-compatible server of a live model: its routes, and how it starts and stops."""

import asyncio
import contextlib
import errno
import shlex
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, StreamingResponse
from starlette.staticfiles import StaticFiles

from prefreg.axes.axis import Message
from prefreg.composition.in_memory import ScaledVector
from prefreg.composition.resolve import base_spec, identify, range_warnings
from prefreg.errors import (
    BusyError,
    NotStoredError,
    OutputError,
    PrefregError,
    RegistryError,
    did_you_mean,
    reason,
)
from prefreg.evaluation.candidates import Candidate
from prefreg.registry import Access
from prefreg.serving.asking import Ask, Piece
from prefreg.serving.dial_listing import DialListing
from prefreg.serving.guard import Guard, respond
from prefreg.serving.live_model import LiveModel
from prefreg.serving.model_names import model_name, parse_setting, setting_in
from prefreg.serving.openai_api import (
    MOST_CHOICES,
    ApiError,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    OwedRequest,
    SettingRequest,
    refusal,
)
from prefreg.serving.replies import Answers, Choice, Reply, events
from prefreg.serving.serving_request import LOOPBACK, ServingRequest
from prefreg.serving.telling import Metrics
from prefreg.terms import Term, as_terms, brief_eta, parse_reference
from prefreg.values import MAX_SEED

PAGE = Path(__file__).with_name("page")
DEFAULT_TOKENS = 512
"""Of an answer where the client names no limit."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPING = 120
"""Seconds for which running answers may go on when the server stops."""

_Found = TypeVar("_Found")


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

    def setting(self, model: str, preferences: dict[str, float] | None) -> Setting:
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
        for term in terms:
            if abs(term.eta) > self.limits.max_eta:
                raise ApiError(
                    400,
                    f"The coefficient {brief_eta(term.eta)} of {term.axis!r} is out of bounds: "
                    f"this server takes -{brief_eta(self.limits.max_eta)} to "
                    f"{brief_eta(self.limits.max_eta)}.",
                    param=param,
                    code="eta_out_of_range",
                )
        return self._describe(self.live.check(terms))

    def _describe(self, found: Sequence[ScaledVector]) -> Setting:
        candidate = Candidate(self.live.base, tuple((each.eta, each.record) for each in found))
        terms = candidate.terms
        command = ["prefreg", "compose", *map(str, terms), "--base", self.spec]
        if self.access.location is not None:
            command += ["--registry", self.access.place]
        return Setting(
            terms,
            {
                "formula": candidate.formula,
                "terms": list(map(str, terms)),
                "model": model_name(self.name, terms) if terms else f"{self.name}",
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
        kind: Any,
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
        written = self.live.tokenizer(body.answer, add_special_tokens=False)["input_ids"]
        whole = (*prompt, *written)
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
        """Return the model with the setting that stands, and each preset that fits it."""
        return [self._model(self.name, self.check(self.live.terms, "model"))]

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


def make_app(
    live: LiveModel,
    access: Access,
    request: ServingRequest | None = None,
    *,
    patience: float = 60.0,
) -> FastAPI:
    """Make the application that serves a live model; see `Guard` for `patience`."""
    request = request or ServingRequest()
    service = Service(live, access, request)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(live.close)

    app = FastAPI(
        title="prefreg", lifespan=lifespan, docs_url=None, redoc_url=None,
        openapi_url="/v1/openapi.json",
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(
        Guard,
        key=request.api_key or None,
        hosts={*LOOPBACK, request.host.lower()} if not request.api_key else None,
        measure=service.metrics.request,
        patience=patience,
    )
    _handle_errors(app, service)
    _add_answers(app, service)
    _add_dials(app, service)
    _add_watching(app, service)
    if PAGE.is_dir():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    """Add the routes that make the model answer."""

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await _answer(service, request, body, service.prepare_chat)

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        return await _answer(service, request, body, service.prepare_completion)

    @app.post("/v1/owed")
    async def owed(body: OwedRequest, request: Request) -> Response:
        asks, begin = await to_thread.run_sync(service.prepare_owed, body)
        answers = await Answers.of(service.live, asks)
        choices = await _unless_gone(request, _collect(service, answers, len(asks)))
        if choices is None:
            return Response()
        toward, away = (each.tokens[begin:] for each in choices)
        told = [
            {
                "token": plus.text,
                "bytes": list(plus.bytes),
                "plus": plus.logprob,
                "minus": minus.logprob,
                "owed": (plus.logprob or 0.0) - (minus.logprob or 0.0),
            }
            for plus, minus in zip(toward, away, strict=True)
        ]
        return JSONResponse({"object": "owed", "axis": body.axis, "tokens": told})


_Body = TypeVar("_Body", ChatRequest, CompletionRequest)


async def _answer(
    service: Service, request: Request, body: _Body, prepare: Callable[[_Body], Prepared]
) -> Response:
    """Answer as a whole or as a stream; nothing runs on for a client that has left."""
    prepared = await to_thread.run_sync(prepare, body)
    answers = await Answers.of(service.live, prepared.asks)
    count = len(prepared.asks)
    if not body.stream:
        choices = await _unless_gone(request, _collect(service, answers, count))
        return Response() if choices is None else JSONResponse(prepared.reply.whole(choices))
    bodies = prepared.reply.stream(
        _timed(service, answers.pieces()), count=count, tells_usage=body.tells_usage
    )

    async def written() -> AsyncIterator[bytes]:
        try:
            async for event in events(bodies):
                yield event
        except Exception as error:
            told = _as_api_error(error, service)
            async for event in events(_once(told.envelope)):
                yield event
        finally:
            answers.cancel()

    return StreamingResponse(
        written(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _once(body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield body


async def _collect(service: Service, answers: Answers, count: int) -> list[Choice]:
    choices = [Choice() for _ in range(count)]
    async for number, piece in _timed(service, answers.pieces()):
        choices[number].add(piece)
    return choices


async def _timed(
    service: Service, pieces: AsyncGenerator[tuple[int, Piece]]
) -> AsyncIterator[tuple[int, Piece]]:
    """Take note of when the first piece came, and the last."""
    began, first = time.perf_counter(), True
    async with contextlib.aclosing(pieces):
        async for each in pieces:
            if first:
                service.note(first=time.perf_counter() - began)
                first = False
            yield each
    service.note(whole=time.perf_counter() - began)


async def _unless_gone(request: Request, work: Awaitable[_Found]) -> _Found | None:
    """Wait for work, or end it when the client leaves; then return None."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()


def _add_dials(app: FastAPI, service: Service) -> None:
    """Add the routes that tell what can be asked for."""

    @app.get("/v1/models")
    async def models() -> Response:
        found = await to_thread.run_sync(service.models)
        return JSONResponse({"object": "list", "data": found})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return JSONResponse(await to_thread.run_sync(service.model, name))

    @app.post("/v1/setting")
    async def setting(body: SettingRequest) -> Response:
        found = await to_thread.run_sync(service.setting, body.model, body.preferences)
        return JSONResponse({"object": "setting", **found.told})

    @app.get("/v1/axes")
    async def axes() -> Response:
        found = await to_thread.run_sync(service.dials.all)
        limits = service.limits
        return JSONResponse(
            {
                "object": "list",
                "data": found,
                "model": service.name,
                "standing": list(map(str, service.live.terms)),
                "limits": {
                    "eta": limits.max_eta,
                    "max_tokens": limits.max_tokens,
                    "context": service.live.context,
                },
                "sampling": service.sampling,
            }
        )

    @app.get("/v1/axes/{axis}")
    async def axis(axis: str) -> Response:
        found = await to_thread.run_sync(service.dials.one, *parse_reference(axis))
        return JSONResponse({"object": "axis", **found})

    @app.get("/v1/axes/{axis}/curves.png")
    async def curves(axis: str) -> Response:
        drawn = await to_thread.run_sync(service.dials.curves, *parse_reference(axis))
        return Response(drawn, media_type="image/png")

    @app.get("/v1/cosines")
    async def cosines() -> Response:
        found = await to_thread.run_sync(service.dials.cosines)
        return JSONResponse({"object": "cosines", **found})


def _add_watching(app: FastAPI, service: Service) -> None:
    """Add the routes for those who keep the server running."""

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        state = service.live.state()
        is_ready = state.waiting < service.limits.max_waiting
        told = {"ready": is_ready, "waiting": state.waiting, "running": state.running}
        return JSONResponse(told, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _handle_errors(app: FastAPI, service: Service) -> None:
    """Have every error leave in the envelope of OpenAI."""

    async def handle(_: Request, error: Exception) -> Response:
        return respond(_as_api_error(error, service))

    for kind in (ApiError, PrefregError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)


def _as_api_error(error: Exception, service: Service) -> ApiError:
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return refusal(error.errors())
        case HTTPException():
            return ApiError(error.status_code, f"{error.detail}.", headers=error.headers)
        case BusyError():
            return ApiError(
                429,
                str(error),
                kind="rate_limit_error",
                code="server_busy",
                headers={"Retry-After": str(service.wait())},
            )
        case NotStoredError():
            return ApiError(404, str(error), code="axis_not_found")
        case RegistryError():
            return ApiError(503, str(error), kind="server_error", code="registry_unavailable")
        case PrefregError():
            return ApiError(400, str(error))
    return ApiError(
        500,
        f"This is a bug in prefreg: {reason(error)}",
        kind="server_error",
        code="internal_error",
    )


def serve(
    access: Access, request: ServingRequest, ready: Callable[[str], None] | None = None
) -> None:
    """Serve until SIGTERM or Ctrl-C, which lets running answers end; a second Ctrl-C does not.

    `ready` is told the address once the model is loaded.

    Raises:
        OutputError: The address cannot be listened at, as when the port is in use.
        PrefregError: Whatever `LiveModel.load` raises.
        KeyboardInterrupt: Ctrl-C came twice.
    """
    with _listen(request) as listening:  # known before a model is loaded
        live = LiveModel.load(access, request.base, request.terms, max_waiting=request.max_waiting)
        app = make_app(live, access, request)
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_config=None, log_level="error", access_log=False, server_header=False,
                ws="none", lifespan="on", timeout_graceful_shutdown=STOPPING,
            )
        )  # fmt: skip
        if ready is not None:
            port = listening.getsockname()[1]
            host = f"[{request.host}]" if ":" in request.host else request.host
            ready(f"http://{host}:{port}")
        try:
            with _signals_end_nothing_else():
                server.run(sockets=[listening])
        finally:
            live.close(finish_running=False)
        if server.force_exit:
            raise KeyboardInterrupt


def _listen(request: ServingRequest) -> socket.socket:
    """Take the port, so that nobody else does while a model is loaded."""
    place = f"{request.host}:{request.port}"
    try:
        found = socket.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM)
        family, *_, address = found[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OutputError(
                f"Port {request.port} of {request.host} is in use. Choose another with --port; "
                "0 takes a free one."
            ) from error
        raise OutputError(
            f"{place} cannot be listened at: {error.strerror or error}. Choose another --host or "
            "--port."
        ) from error


@contextlib.contextmanager
def _signals_end_nothing_else() -> Iterator[None]:
    """Have signals stop the server alone, which raises them again for whoever else listens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, lambda *_: None) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
