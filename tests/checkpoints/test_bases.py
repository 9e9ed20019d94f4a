import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from prefreg.checkpoints.bases import explain_hub_error, resolve_base
from prefreg.checkpoints.fingerprint import fingerprint
from prefreg.errors import BaseModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ERRORS = {
    "gated": (403, "GatedRepo"),
    "forbidden": (403, ""),
    "private": (401, "RepoNotFound"),
    "missing": (404, "RepoNotFound"),
}
RESOLVE = """
import json, sys
from prefreg.checkpoints.bases import resolve_base
from prefreg.errors import BaseModelError

answers = {}
for spec in sys.argv[1:]:
    try:
        base = resolve_base(spec)
        answers[spec] = [base.name, base.revision, sorted(p.name for p in base.path.iterdir())]
    except BaseModelError as error:
        answers[spec] = str(error)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub(saved: Path) -> Iterator[str]:
    """Serve a repository `org/tiny` as the Hub does, and refuse others as it does."""
    files = {path.name: path.read_bytes() for path in (saved / "llama").iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "original/params.json": b"{}"}
    files |= {"README.md": b"---\nlicense: mit\n---\n"}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            _, *parts = self.path.partition("?")[0].split("/")
            if parts[:2] == ["api", "models"] and parts[3] in ERRORS:
                self.answer(*ERRORS[parts[3]])
            elif parts[:4] == ["api", "models", "org", "tiny"] and parts[4] == "revision":
                if parts[5] == "none":
                    self.answer(404, "RevisionNotFound")
                else:
                    self.answer(200, content=json.dumps({"id": "org/tiny", "sha": COMMIT}).encode())
            elif parts[:4] == ["api", "models", "org", "tiny"] and parts[4] == "tree":
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in files.items()
                ]
                self.answer(200, content=json.dumps(tree).encode())
            elif parts[2:3] == ["resolve"] and "/".join(parts[4:]) in files:
                self.answer(200, content=files["/".join(parts[4:])])
            else:
                self.answer(404)

        def answer(self, status: int, code: str = "", content: bytes = b"{}") -> None:
            self.send_response(status)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def resolve_in_a_process(
    *specs: str, folder: Path, **environment: str
) -> dict[str, str | list[object]]:
    # The Hub's client reads its environment once, when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, *specs],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0",
            **environment,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, str | list[object]] = json.loads(done.stdout)
    return answers


def test_a_folder_is_named_by_its_absolute_path(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)
    base = resolve_base("llama")
    assert (base.name, base.revision, base.path) == (str(saved / "llama"), None, saved / "llama")
    assert base.fingerprint == fingerprint(base.checkpoint)
    assert str(base) == str(saved / "llama")


def test_the_bundled_model_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pocket").mkdir()
    monkeypatch.chdir(tmp_path)
    base = resolve_base("pocket")
    assert (base.name, base.revision) == ("pocket", None)
    assert base.fingerprint.parameters > 0


@pytest.mark.parametrize(
    "spec", ["./absent", "/absent/model", "a/b/c", "org/name@", "", "~/absent"]
)
def test_what_can_be_no_repository_is_a_missing_folder(spec: str) -> None:
    with pytest.raises(BaseModelError, match="There is no folder"):
        resolve_base(spec)


def test_a_repository_is_downloaded_and_then_found_offline(hub: str, tmp_path: Path) -> None:
    specs = ("org/tiny", f"org/tiny@{COMMIT}")
    online = resolve_in_a_process(*specs, folder=tmp_path, HF_ENDPOINT=hub)
    files = [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert online == {spec: ["org/tiny", COMMIT, files] for spec in specs}
    assert resolve_in_a_process(*specs, folder=tmp_path, HF_HUB_OFFLINE="1") == online


def test_a_folder_beats_a_repository(saved: Path, hub: str, tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny").symlink_to(saved / "llama")
    answers = resolve_in_a_process("org/tiny", folder=tmp_path, HF_ENDPOINT=hub)
    assert answers["org/tiny"][:2] == [str(saved / "llama"), None]


def test_the_refusals_of_the_hub_say_what_to_do(hub: str, tmp_path: Path) -> None:
    answers = resolve_in_a_process(
        "org/gated",
        "org/private",
        "org/missing",
        "org/forbidden",
        "org/tiny@none",
        folder=tmp_path,
        HF_ENDPOINT=hub,
    )
    accept = "Accept its licence at https://huggingface.co/org/{} and set HF_TOKEN to a token of"
    assert accept.format("gated") in answers["org/gated"]
    assert accept.format("forbidden") in answers["org/forbidden"]
    for name in ("private", "missing"):
        assert f"no folder and no public Hub repository 'org/{name}'" in answers[f"org/{name}"]
        assert f"accept its licence at https://huggingface.co/org/{name}" in answers[f"org/{name}"]
    assert "'org/tiny' has no revision 'none'" in answers["org/tiny@none"]


def test_offline_and_unreachable_are_told_apart(tmp_path: Path) -> None:
    offline = resolve_in_a_process("org/tiny", folder=tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids a download" in offline["org/tiny"]
    dead = resolve_in_a_process("org/tiny", folder=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "the Hub cannot be reached" in dead["org/tiny"]


def test_other_reasons_are_passed_on_in_one_line() -> None:
    assert explain_hub_error(ValueError("bad\n  name"), "a/b") == (
        "'a/b' could not be downloaded from the Hub: bad name"
    )
    error = LocalEntryNotFoundError("not there")
    error.__cause__ = OfflineModeIsEnabled("off")
    assert "HF_HUB_OFFLINE" in explain_hub_error(error, "a/b")
