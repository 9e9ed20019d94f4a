"""A stand-in for the Hub on loopback: the part of its HTTP API that the client's requests ask for.

It keeps repositories with their commits, knows accounts by their tokens, and refuses as the Hub
does: by status and `X-Error-Code`. A commit on another parent than the head is refused with 412.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

WRITER, READER, EXPIRED = "hf_writer", "hf_reader", "hf_expired"
"""Tokens: of a member of `org`, of somebody else, and of nobody any longer."""
_RELATIONS = {"adapter", "merge", "finetune", "quantized"}


@dataclass
class Repository:
    """A repository: its commits, the oldest first, each with all its files."""

    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], title: str = "") -> str:
        """Add a commit and return its name."""
        number = f"{len(self.commits)}{sorted(files)}{id(self)}"
        oid = hashlib.sha1(number.encode()).hexdigest()
        self.commits.append((oid, files))
        self.titles.append(title)
        return oid

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]


@dataclass
class StandIn:
    """All that the stand-in holds, for a test to look at and to change."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)
    committing: Barrier | None = None
    """Where commits wait for one another."""

    def add(self, name: str, files: dict[str, bytes] | None = None, **options: Any) -> Repository:
        """Put a repository there."""
        made = self.repositories[name] = Repository(**options)
        made.commit({".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}, "initial")
        return made


def is_large(name: str) -> bool:
    """Whether a file goes the way of large ones."""
    return name.endswith((".safetensors", ".png", ".bin"))


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def oid_of(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if is_large(name) else git_hash(data)


class RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def _handle(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} /{'/'.join(parts)}")
        try:
            self._route(parts)
        except RefusedError as error:
            self._answer({"error": error.message}, error.status, error.code, error.message)

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _route(self, parts: list[str]) -> None:
        match self.command, parts:
            case "POST", ["api", "repos", "create"]:
                self._create(json.loads(self.body))
            case "POST", ["api", "validate-yaml"]:
                self._validate(json.loads(self.body)["content"])
            case "GET", ["api", "models", org, name, *rest] if rest[:1] in ([], ["revision"]):
                self._info(f"{org}/{name}", rest[1] if rest else "main")
            case "POST", ["api", "models", org, name, "preupload", _]:
                self._preupload(self._writable(f"{org}/{name}"), json.loads(self.body))
            case "POST", ["api", "models", org, name, "commit", "main"]:
                self._commit(f"{org}/{name}")
            case "POST", [org, name, "info", "lfs", "objects", "batch"]:
                self._writable(f"{org}/{name.removesuffix('.git')}")
                self._batch(json.loads(self.body))
            case "PUT", ["lfs", oid]:
                if hashlib.sha256(self.body).hexdigest() != oid:
                    raise RefusedError(400, message="other bytes")
                self.hub.blobs[oid] = self.body
                self._answer({})
            case "POST", ["lfs", "verify"]:
                found = self.hub.blobs.get(json.loads(self.body)["oid"])
                self._answer({}, 404 if found is None else 200)
            case (("GET" | "HEAD"), [org, name, "resolve", revision, *path]):
                self._resolve(f"{org}/{name}", revision, "/".join(path))
            case _:
                raise RefusedError(501, message=f"the stand-in knows no {self.command} {self.path}")

    def _token(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        if token == EXPIRED:
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        return token

    def _visible(self, name: str) -> Repository:
        token, found = self._token(), self.hub.repositories.get(name)
        if found is None or (found.private and token != WRITER):
            raise RefusedError(404 if token else 401, "RepoNotFound", "Repository not found")
        return found

    def _writable(self, name: str) -> Repository:
        found = self._visible(name)
        if self._token() != WRITER:
            raise RefusedError(403, message="You have read access but not the required permissions")
        return found

    def _at(self, found: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        if revision == "main":
            return found.commits[-1]
        known = [each for each in found.commits if each[0] == revision]
        if not known:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return known[0]

    def _create(self, asked: dict[str, Any]) -> None:
        token, name = self._token(), f"{asked['organization']}/{asked['name']}"
        if token is None:
            raise RefusedError(401, message="Invalid username or password.")
        if token != WRITER or asked["organization"] != "org":
            raise RefusedError(403, message="You don't have the rights to create a model there")
        with self.hub.lock:
            there = name in self.hub.repositories
            if not there:
                self.hub.add(name, private=asked.get("visibility") == "private")
        self._answer({"url": f"{self.hub.url}/{name}"}, 409 if there else 200)

    def _validate(self, card: str) -> None:
        problems = []
        header = yaml.safe_load(card.split("---")[1])
        if header.get("base_model_relation") not in _RELATIONS:
            problems.append('"base_model_relation" must be one of its values')
        if header.get("license") == "other" and "license_name" not in header:
            problems.append('"license_name" is needed')
        answer = {"errors": [{"message": each} for each in problems], "warnings": []}
        self._answer(answer, 400 if problems else 200)

    def _info(self, name: str, revision: str) -> None:
        found = self._visible(name)
        commit, files = self._at(found, revision)
        siblings: list[dict[str, Any]] = []
        for path, data in files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_hash(data)}
            if is_large(path):
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        self._answer({"id": name, "sha": commit, "private": found.private, "siblings": siblings})

    def _preupload(self, found: Repository, asked: dict[str, Any]) -> None:
        there = found.files
        files = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if is_large(each["path"]) else "regular",
                "shouldIgnore": False,
                "oid": oid_of(each["path"], there[each["path"]]) if each["path"] in there else None,
            }
            for each in asked["files"]
        ]
        self._answer({"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            if each["oid"] not in self.hub.blobs:
                each |= {
                    "actions": {
                        "upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"},
                        "verify": {"href": f"{self.hub.url}/lfs/verify"},
                    }
                }
            objects.append(each)
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, name: str) -> None:
        found = self._writable(name)
        if self.hub.committing is not None:
            self.hub.committing.wait(timeout=60)
        header, *operations = (json.loads(line) for line in self.body.splitlines())
        with self.hub.lock:
            if header["value"].get("parentCommit") not in (None, found.head):
                raise RefusedError(
                    412, message="A commit has happened since. Please refresh and retry."
                )
            files = dict(found.files)
            for operation in operations:
                value = operation["value"]
                match operation["key"]:
                    case "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    case "lfsFile":
                        files[value["path"]] = self.hub.blobs[value["oid"]]
                    case "deletedFile":
                        del files[value["path"]]
            oid = found.commit(files, header["value"]["summary"])
        self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._visible(name)
        if found.gated and self._token() != WRITER:
            raise RefusedError(
                403 if self._token() else 401, "GatedRepo", f"Access to {name} is gated"
            )
        commit, files = self._at(found, revision)
        if path not in files:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        self._send(files[path], 200, {"ETag": f'"{oid_of(path, files[path])}"'}, commit)

    def _answer(self, content: Any, status: int = 200, code: str = "", said: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": said}
        self._send(json.dumps(content).encode(), status, {k: v for k, v in headers.items() if v})

    def _send(
        self, data: bytes, status: int, headers: dict[str, str], commit: str | None = None
    ) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # of a client that was ended
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if commit is not None:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """Start a stand-in, and stop it at the end."""
    hub = StandIn()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
