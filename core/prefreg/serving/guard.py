"""What every request passes before its route: key, host, body; and what is counted of it."""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefreg.errors import reason
from prefreg.serving.openai_api import ApiError

MOST_BYTES = 4 * 2**20
"""Of a body."""
_DRAINING = 5.0
"""Seconds for which a body that is too large is read on, so that its sender gets to the answer."""
_OPEN = ("/health", "/ready")
_KEPT = ("/v1", "/metrics")
"""What a key is needed for; the page itself holds nothing secret, and asks for the key."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Measure = Callable[[str, int, float], None]
"""Take note of a request: its route, its status, its seconds."""

log = logging.getLogger("prefreg.serving")


class _GoneError(Exception):
    """The client went away before its request was whole."""


class Guard:
    """Stands before an application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str | None,
        hosts: Collection[str] | None,
        measure: Measure,
        patience: float = 60.0,
    ) -> None:
        """Let requests pass that send the key, or name one of the hosts.

        `patience` is in seconds: for the next part of a body to come, and for a reader to take
        the next part of an answer.
        """
        self._app = app
        self._key = None if key is None else key.encode()
        self._hosts = hosts
        self._measure = measure
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, whatever happens to it."""
        if scope["type"] != "http":  # "lifespan"; there is no other
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(_KEPT):
                    headers.setdefault("Cache-Control", "no-store")
            async with asyncio.timeout(self._patience):
                await send(message)

        try:
            self._check(scope)
            await self._app(scope, await self._read_body(scope, receive), answer)
        except (_GoneError, asyncio.CancelledError):
            pass  # the client has left; or the server stops, and has waited long enough
        except TimeoutError:
            log.warning("A reader took nothing for %g s: its answer is dropped.", self._patience)
        except Exception as error:
            refused = error if isinstance(error, ApiError) else _bug(error)
            if not status:
                await respond(refused)(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._measure(route or "page", status, time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        path = scope["path"]
        if path in _OPEN:
            return
        if self._key is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            # In constant time, so that nobody learns a key letter by letter.
            known = hmac.compare_digest(given.strip().encode("latin-1"), self._key)
            if path.startswith(_KEPT) and not (known and scheme.lower() == "bearer"):
                raise ApiError(
                    401,
                    "The API key is wrong." if given else "An API key is needed.",
                    kind="authentication_error",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        elif self._hosts is not None:
            # A page of elsewhere may have its own name point here (DNS rebinding).
            try:
                name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
            except ValueError:
                name = ""
            if name not in self._hosts:
                raise ApiError(
                    421,
                    f"This server is not {name!r}: it answers to {', '.join(sorted(self._hosts))}. "
                    "With an API key it answers to every name.",
                )

    async def _read_body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the whole body, within bounds, and return what hands it on."""
        body = bytearray()
        length = Headers(scope=scope).get("content-length", "")
        too_large = length.isascii() and length.isdigit() and int(length[:18]) > MOST_BYTES
        until: float | None = None
        more = True
        while more:
            if too_large and until is None:
                until = time.monotonic() + _DRAINING
            try:
                async with asyncio.timeout(self._patience):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, f"The body did not come on for {self._patience:g} s.") from None
            if message["type"] == "http.disconnect":
                raise _GoneError
            if not too_large:
                body += message.get("body", b"")
                too_large = len(body) > MOST_BYTES
            more = message.get("more_body", False)
            if until is not None and time.monotonic() > until:
                break
        if too_large:
            raise ApiError(
                413,
                f"The body has more than {MOST_BYTES >> 20} MiB.",
                code="body_too_large",
                headers={"Connection": "close"},
            )
        handed = False

        async def hand_on() -> Message:
            nonlocal handed
            if handed:
                return await receive()  # comes when the client leaves
            handed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return hand_on


def respond(error: ApiError) -> JSONResponse:
    """Make the response of a refusal."""
    return JSONResponse(error.envelope, error.status, error.headers)


def _bug(error: Exception) -> ApiError:
    log.error("A bug in prefreg: %s", reason(error), exc_info=error)
    return ApiError(
        500,
        f"This is a bug in prefreg: {reason(error)}",
        kind="server_error",
        code="internal_error",
    )
