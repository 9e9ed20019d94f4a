"""An OpenAI-compatible server of a live model: its routes, and how it starts and stops."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, StreamingResponse

from prefreg.errors import (
    BusyError,
    NotStoredError,
    OutputError,
    PrefregError,
    RegistryError,
    reason,
)
from prefreg.registry import Access
from prefreg.serving.asking import Piece
from prefreg.serving.guard import Guard, respond
from prefreg.serving.live_model import LiveModel
from prefreg.serving.openai_api import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    OwedRequest,
    PresetRequest,
    SettingRequest,
    refusal,
)
from prefreg.serving.replies import Answers, Choice, events
from prefreg.serving.service import Prepared, Service
from prefreg.serving.serving_request import LOOPBACK, ServingRequest
from prefreg.terms import parse_reference

PAGE = Path(__file__).with_name("page")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPING = 120
"""Seconds for which running answers may go on when the server stops."""

_Found = TypeVar("_Found")


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
    _add_presets(app, service)
    _add_watching(app, service)
    _add_page(app)
    return app


def _add_page(app: FastAPI) -> None:
    """Add a route for each file of the page, and for no other file."""

    def add(file: Path) -> None:
        # Without parameters, which would be taken from the request.
        async def send() -> Response:
            return FileResponse(file, headers={"Cache-Control": "no-cache"})

        place = "/" if file.name == "index.html" else f"/{file.name}"
        app.add_api_route(place, send, methods=["GET", "HEAD"], include_in_schema=False)

    for file in PAGE.iterdir():
        add(file)


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
                "examples": service.examples,
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


def _add_presets(app: FastAPI, service: Service) -> None:
    """Add the routes of named settings."""

    @app.get("/v1/presets")
    async def presets() -> Response:
        found = await to_thread.run_sync(service.presets)
        for each in found:
            each["model"] = (each.pop("shown") or {}).get("id")
        return JSONResponse({"object": "list", "data": found})

    @app.put("/v1/presets/{name}")
    async def save(name: str, body: PresetRequest) -> Response:
        return JSONResponse(await to_thread.run_sync(service.save_preset, name, body))

    @app.delete("/v1/presets/{name}")
    async def remove(name: str) -> Response:
        return JSONResponse(await to_thread.run_sync(service.remove_preset, name))


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
        server = _Server(
            uvicorn.Config(
                app, log_config=None, log_level="error", access_log=False, server_header=False,
                ws="none", lifespan="on", timeout_graceful_shutdown=STOPPING,
            )
        )  # fmt: skip
        # It warns of every piece that is written for a client that has left.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
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


class _Server(uvicorn.Server):
    """Ends without a word of what it cuts off when it is told twice."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self.force_exit:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


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
