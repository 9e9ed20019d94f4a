"""Finding a base model: a bundled one, a folder, a GGUF file, or a repository of the Hub."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prefreg.axes.base_world import BaseWorld
from prefreg.axes.bundled_base import BundledBase
from prefreg.checkpoints.bundled import BUNDLED, find_bundled
from prefreg.checkpoints.checkpoint import VOCABULARIES, Checkpoint
from prefreg.checkpoints.fingerprint import Fingerprint, fingerprint
from prefreg.checkpoints.gguf_base import GGUFOrigin, is_gguf, open_gguf
from prefreg.errors import BaseModelError
from prefreg.values import find_path

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.py", *VOCABULARIES]
# Other formats of the same weights, which some repositories carry in subfolders or beside.
_UNWANTED = ["*/*.safetensors", "*/*.json", "*/*.model", "*/*.txt", "*/*.py", "consolidated*.s*"]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model that was found, opened and fingerprinted."""

    name: str
    """That of a bundled base, an absolute path, or the repository on the Hub."""
    revision: str | None
    """The resolved commit of a repository."""
    path: Path
    fingerprint: Fingerprint
    checkpoint: Checkpoint
    bundled: BundledBase | None = None
    """What is known of a base by its name."""
    gguf: GGUFOrigin | None = None
    """The file that the folder was made of."""

    @property
    def world(self) -> BaseWorld | None:
        """Return the closed world that the base knows."""
        return self.bundled.world if self.bundled else None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision[:12]}" if self.revision else self.name


def resolve_base(spec: str) -> BaseModel:
    """Find the base that `spec` names: a bundled one, a folder, a GGUF file, or a repository.

    A repository, `org/name[@revision]`, is downloaded, or found in the Hub's cache. A GGUF file
    is dequantised once, into prefreg's cache.
    """
    if (bundled := find_bundled(spec)) is not None:
        return _open(spec, None, bundled.locate(), bundled)
    path = find_path(spec)
    if path is not None:
        return _open(str(path), None, path)
    name, at, revision = spec.partition("@")
    if not _HUB_NAME.fullmatch(name) or (at and not revision):
        raise BaseModelError(
            f"There is no folder {spec!r}, and it is no name of a Hub repository. "
            f"Name an existing folder, ORG/NAME[@REVISION], or {' or '.join(map(repr, BUNDLED))}."
        )
    path = _download(name, revision or None)
    return _open(name, path.name if _COMMIT.fullmatch(path.name) else revision or None, path)


def _open(
    name: str, revision: str | None, path: Path, bundled: BundledBase | None = None
) -> BaseModel:
    origin = None
    if is_gguf(path):
        path, origin = open_gguf(path)
    checkpoint = Checkpoint.open(path)
    return BaseModel(name, revision, path, fingerprint(checkpoint), checkpoint, bundled, origin)


def _download(name: str, revision: str | None) -> Path:
    # Imported here: the Hub's client is slow to import, and most bases are folders.
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        path = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
            )
        )
    except Exception as error:  # the client lets the errors of its HTTP library through
        raise BaseModelError(explain_hub_error(error, name, revision)) from error
    # The card has the licence; for the lack of it nothing shall be fetched again.
    with suppress(Exception):
        hf_hub_download(name, "README.md", revision=path.name)
    return path


def explain_hub_error(error: Exception, name: str, revision: str | None = None) -> str:
    """Say why a repository could not be had, and what to do about it."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{name}"
    # The client hides a plain 403 behind an error about its cache.
    answered = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__
    status = getattr(getattr(answered, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return (
            f"Access to {name!r} on the Hub is restricted. Accept its licence at {page} and set "
            "HF_TOKEN to a token of the account that did."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name!r} has no revision {revision!r}. See {page}/commits for those it has."
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return (
            f"There is no folder and no public Hub repository {name!r}. Check the name; if it is "
            f"private or gated, accept its licence at {page} and set HF_TOKEN."
        )
    if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
        return (
            f"{name!r} is no folder and is not in the Hub's cache, and HF_HUB_OFFLINE forbids "
            "a download. Unset it, or download the model first."
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{name!r} is no folder and is not complete in the Hub's cache, and the Hub cannot be "
            "reached. Check the connection, or name a folder."
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{name!r} could not be downloaded from the Hub: {reason:.300}"
