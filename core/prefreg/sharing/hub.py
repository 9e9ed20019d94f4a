"""The Hub: one repository for a vector or a composition, pushed in one commit and pulled checked.

Nothing of a repository is trusted: its record is read strictly, its bytes are those of the record
or are refused, its base is the one that is here, and no file of it is ever unpickled or run.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    errors,
    get_token,
    hf_hub_download,
)

from prefreg.checkpoints.base_licence import CARD_FILE
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.checkpoints.bundled import find_bundled
from prefreg.composition.output import RECIPE_FILE, read_composed
from prefreg.composition.plan import Plan, PlannedTerm, opened
from prefreg.composition.resolve import find_base, identify
from prefreg.errors import (
    BaseModelError,
    HubError,
    OutputError,
    PrefregError,
    UsageError,
    VectorError,
    listed,
    one_line,
)
from prefreg.files import at_hand, hash_file, work_folder
from prefreg.json_values import JsonFields, parse_json
from prefreg.registry import Access, VersionRecord
from prefreg.registry.licences import Licences, licences_of
from prefreg.registry.names import check_axis_name
from prefreg.sharing.card import PICTURE_FILE, vector_card
from prefreg.sharing.record_file import (
    VECTOR_FILE,
    public_name,
    read_record,
    record_document,
)
from prefreg.values import SMALL, read_small

Files = dict[str, bytes | Path]

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_ANYBODYS = re.compile(r"\..*|README\.md|LICEN[CS]E.*")
"""Names of files that a repository may have before anything is pushed to it."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_CONFLICTS = (409, 412)
_ADAPTER = "adapter_config.json"
_TOKENS = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True, slots=True)
class Pushed(JsonFields):
    """What was sent to the Hub."""

    repository: str
    url: str
    commit: str
    changed: bool
    """Whether there is a new commit; what lies there already is not sent again."""
    private: bool
    files: tuple[str, ...]
    licences: Licences
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pulled:
    """A version that was taken from the Hub, and whether it had to be added."""

    record: VersionRecord
    added: bool
    repository: str
    commit: str
    licences: Licences


def push_vector(
    access: Access,
    reference: tuple[str, str | None],
    repository: str,
    *,
    private: bool = False,
    licence: str | None = None,
) -> Pushed:
    """Push a version with its record, card and picture; a low-rank one as an adapter of PEFT too.

    Raises:
        UsageError: The repository is not ORG/NAME.
        RegistryError: There is no such version.
        HubError: The Hub refuses or cannot be reached, or somebody else has pushed meanwhile.
        OutputError: The repository holds something else, or is public and shall be private.
    """
    _check_name(repository)
    _require_token()
    with access.reading() as store, work_folder() as folder:
        stored = store.resolve(*reference)
        found = store.vector_source(stored, rehash=True)
        # What lies in a bucket is read into memory: the client takes bytes or a file.
        source = at_hand(found)
        base = find_base(stored.base) if stored.kind == "low-rank" else None
        record = _for_others(stored, licence)
        files: Files = {VECTOR_FILE: source}
        warnings: tuple[str, ...] = ()
        if base is not None:
            try:
                files |= _adapter_files(stored, base, source, folder)
            except VectorError as error:
                warnings = (f"It is no adapter of PEFT there: {error}",)
        if any((pole or {}).get("curve") for pole in record.metadata.get("poles", {}).values()):
            # Imported here, as matplotlib takes long to load.
            from prefreg.evaluation.pole_curves import plot_version

            plot_version(record, folder / PICTURE_FILE)
            files[PICTURE_FILE] = folder / PICTURE_FILE
        licences = licences_of([record], base)
        files[CARD_FILE] = vector_card(
            record,
            repository,
            licences,
            picture=PICTURE_FILE in files,
            adapter=_ADAPTER in files,
        )
        document = record_document(record) | {"contents": sorted(files)}
        files[RECIPE_FILE] = _json_file(document)
        return _commit(
            repository, files, f"{record} by prefreg", private=private, licences=licences,
            warnings=warnings,
        )  # fmt: skip


def push_composition(folder: Path, repository: str, *, private: bool = False) -> Pushed:
    """Push a folder that `compose` or `export` has written.

    Raises:
        UsageError: The repository is not ORG/NAME.
        OutputError: The folder is none of prefreg, or lacks a file; and as `push_vector`.
        HubError: As `push_vector`.
    """
    _check_name(repository)
    _require_token()
    recipe, names = read_composed(folder)
    files: Files = {name: folder / name for name in names}
    base = recipe["base"] | {"name": public_name(str(recipe["base"].get("name")))}
    files[RECIPE_FILE] = _json_file(recipe | {"base": base})
    if _ADAPTER in files:
        files[_ADAPTER] = _public_adapter(folder / _ADAPTER, base["name"])
    licences = Licences.from_json(recipe.get("licences"))
    title = f"{recipe['formula']} by prefreg"
    return _commit(repository, files, title, private=private, licences=licences)


def pull(access: Access, spec: str, *, base: str | None = None, name: str | None = None) -> Pulled:
    """Take the vector of ORG/NAME[@REVISION] into a registry, once all of it is known to be right.

    `base` is where the base model lies, if the registry does not know it; `name` an axis to be
    used instead of its own.

    Raises:
        UsageError: The repository is not ORG/NAME, or the name is none of an axis.
        HubError: The Hub refuses or cannot be reached, or the repository holds no vector.
        VectorError: Record or bytes are damaged, newer, or do not fit the base.
        BaseModelError: The base is not here, or is another one.
        RegistryError: The name belongs to another axis, or the registry cannot be written.
    """
    repository, _, revision = spec.partition("@")
    _check_name(repository)
    if name is not None:
        check_axis_name(name)
    with _explained(repository, revision or None):
        info = HfApi().model_info(repository, revision=revision or None, files_metadata=True)
        commit = str(info.sha)
        place = f"{repository}@{commit[:12]}"
        record = _read_remote(info, place, repository)
        model = _base_of(access, record, base)
        path = Path(hf_hub_download(repository, VECTOR_FILE, revision=commit))
    if path.stat().st_size != record.size or hash_file(path) != record.sha256:
        raise VectorError(
            f"The bytes of {VECTOR_FILE} in {place} are not those of its record (sha256 "
            f"{record.sha256[:12]}): they were changed or damaged. Nothing was stored."
        )
    # Opening them checks that every tensor has its place in the base.
    with opened(Plan(model, [PlannedTerm(record, 1.0, path)])):
        pass
    origin = {"hub": repository, "revision": commit, "version": str(record)}
    here = identify(model)
    taken = replace(
        record,
        base=replace(record.base, name=here.name, revision=here.revision, path=here.path),
        metadata=record.metadata | {"origin": origin},
    )
    with access.writing() as store:
        copied = store.take(taken, path, axis=name, renumber=True)
    found = copied.record
    return Pulled(found, copied.added, repository, commit, licences_of([found], model))


def _for_others(record: VersionRecord, licence: str | None) -> VersionRecord:
    base = replace(record.base, name=public_name(record.base.name), path=None)
    stated = {"licence": licence} if licence else {}
    return replace(record, base=base, metadata=record.metadata | stated)


def _adapter_files(
    record: VersionRecord, base: BaseModel, source: bytes | Path, folder: Path
) -> Files:
    """Write φ as an adapter at η = 1."""
    # Imported here, as it loads torch.
    from prefreg.composition.adapter import write_adapter
    from prefreg.vectors.peft_adapters import WEIGHTS_FILE

    made = folder / "adapter"
    write_adapter(Plan(base, [PlannedTerm(record, 1.0, source)]), made)
    return {
        WEIGHTS_FILE: made / WEIGHTS_FILE,
        _ADAPTER: _public_adapter(made / _ADAPTER, public_name(base.name)),
    }


def _public_adapter(path: Path, base: str) -> bytes:
    """Return the configuration of an adapter without the folder of its base."""
    content = parse_json(read_small(path, OutputError))
    if Path(str(content.get("base_model_name_or_path"))).is_absolute():
        content["base_model_name_or_path"] = base
    return _json_file(content)


def _json_file(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _commit(
    repository: str,
    files: Files,
    title: str,
    *,
    private: bool,
    licences: Licences,
    warnings: tuple[str, ...] = (),
) -> Pushed:
    """Bring a repository to hold these files, and none of an earlier push, in one commit."""
    api = HfApi(library_name="prefreg")
    with _explained(repository, writing=True):
        api.create_repo(repository, private=private or None, exist_ok=True)
        info = api.model_info(repository, files_metadata=True)
        parent = str(info.sha)
        if private and not info.private:
            raise OutputError(
                f"{repository} is there already and is public, so nothing was pushed. Make it "
                "private on its page, or name another repository."
            )
        there = _sizes(info).keys()
        earlier = _earlier(info, repository)
        if earlier is None and (others := [n for n in there if not _ANYBODYS.fullmatch(n)]):
            raise OutputError(
                f"{repository} holds {listed(others)} and no {RECIPE_FILE} of prefreg, so nothing "
                "was pushed. Name another repository."
            )
        gone = (there & set(earlier or ())) - files.keys()
        done = api.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, content) for name, content in files.items()),
                *(CommitOperationDelete(name, is_folder=False) for name in sorted(gone)),
            ],
            commit_message=title,
            parent_commit=parent,
        )
    return Pushed(
        repository,
        f"{api.endpoint}/{repository}",
        str(done.oid),
        str(done.oid) != parent,
        bool(info.private),
        tuple(sorted(files)),
        licences,
        warnings,
    )


def _sizes(info: ModelInfo) -> dict[str, int]:
    return {each.rfilename: each.size or 0 for each in info.siblings or ()}


def _earlier(info: ModelInfo, repository: str) -> list[str] | None:
    """Return the files of an earlier push; None where nothing was pushed by prefreg."""
    size = _sizes(info).get(RECIPE_FILE)
    if size is None or size > SMALL:
        return None
    path = hf_hub_download(repository, RECIPE_FILE, revision=info.sha)
    try:
        content = parse_json(Path(path).read_bytes())
        names = [*content["contents"], RECIPE_FILE]
    except (ValueError, KeyError, TypeError):
        return None
    return [name for name in names if isinstance(name, str)]


def _read_remote(info: ModelInfo, place: str, repository: str) -> VersionRecord:
    """Read the record of a repository, before its vector is fetched."""
    sizes = _sizes(info)
    if RECIPE_FILE not in sizes:
        pickles = [name for name in sizes if PurePosixPath(name).suffix in _PICKLES]
        if pickles and not any(name.endswith(".safetensors") for name in sizes):
            raise HubError(
                f"{place} holds pickle files only ({listed(pickles)}), which are never read, and "
                f"no {RECIPE_FILE} of prefreg."
            )
        raise HubError(
            f"{place} is no vector of prefreg: it has no {RECIPE_FILE}. An adapter or a model made "
            "elsewhere is taken by `prefreg import`."
        )
    if sizes[RECIPE_FILE] > SMALL:
        raise VectorError(f"{RECIPE_FILE} of {place} is larger than any record.")
    data = Path(hf_hub_download(repository, RECIPE_FILE, revision=info.sha)).read_bytes()
    try:
        content = parse_json(data)
    except ValueError:
        content = None
    if isinstance(content, dict) and {"formula", "terms"} <= content.keys():
        raise HubError(
            f"{place} is a composition, which transformers loads by its name; `prefreg pull` takes "
            "single vectors."
        )
    record = read_record(data, f"{RECIPE_FILE} of {place}")
    if VECTOR_FILE not in sizes:
        raise VectorError(f"{place} has a record and no {VECTOR_FILE}; nothing else is read.")
    if sizes[VECTOR_FILE] != record.size:
        raise VectorError(
            f"{VECTOR_FILE} of {place} has {sizes[VECTOR_FILE]} bytes, and its record says "
            f"{record.size}: it was changed or damaged. Nothing was stored."
        )
    return record


def _base_of(access: Access, record: VersionRecord, spec: str | None) -> BaseModel:
    """Open the base of a vector, where it is or can be had, and check its fingerprint."""
    said = record.base
    if spec is None and access.is_present():
        with access.reading() as store:
            known = store.base(said.weights)
        if known is not None:
            return find_base(known)
    if spec is None and said.revision is None and find_bundled(said.name) is None:
        raise BaseModelError(
            f"{record} belongs to the base {said.name!r} (weights {said.weights[:12]}), which this "
            "registry does not know. Give its folder with --base."
        )
    model = resolve_base(spec or (f"{said.name}@{said.revision}" if said.revision else said.name))
    if model.fingerprint.weights != said.weights:
        raise BaseModelError(
            f"{record} belongs to another base, {said.name} with weights {said.weights[:12]}, and "
            f"{model} has {model.fingerprint.weights[:12]}. Nothing was stored."
        )
    return model


def _check_name(repository: str) -> None:
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"{repository!r} is no repository of the Hub. Write ORG/NAME.")


def _require_token() -> None:
    if get_token() is None:
        raise HubError(
            "Pushing needs a token that may write: `hf auth login`, or set HF_TOKEN "
            f"({_TOKENS} makes one)."
        )


def _is_transport(error: Exception) -> bool:
    """Whether the client's HTTP library, whichever it is, could not speak to the Hub."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


@contextmanager
def _explained(
    repository: str, revision: str | None = None, *, writing: bool = False
) -> Iterator[None]:
    """Say of whatever the Hub's client raises what it means for this repository."""
    try:
        yield
    except PrefregError:
        raise
    except Exception as error:  # the client lets the errors of its HTTP library through
        _explain(error, repository, revision, writing)


def _explain(error: Exception, repository: str, revision: str | None, writing: bool) -> NoReturn:
    answered = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__
    status = getattr(getattr(answered, "response", None), "status_code", None)
    page = f"https://huggingface.co/{repository}"
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(each, errors.OfflineModeIsEnabled) for each in causes):
        said = "HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it."
    elif isinstance(error, errors.GatedRepoError):
        said = f"{repository} is gated: ask for access at {page}, and set HF_TOKEN."
    elif isinstance(error, errors.RevisionNotFoundError):
        said = f"{repository} has no revision {revision!r}. See {page}/commits for those it has."
    elif writing and status in _CONFLICTS:
        said = (
            f"Somebody else has pushed to {repository} meanwhile, so nothing of this push was "
            "stored. Look at what is there now, and push again."
        )
    elif status == 403:
        said = f"The token may not {'write to' if writing else 'read'} {repository}. Use one that "
        said += f"may ({_TOKENS}), of an account that is a member there."
    elif status == 401 and (writing or not isinstance(error, errors.RepositoryNotFoundError)):
        said = f"The Hub does not accept the token. Make a new one at {_TOKENS} and set HF_TOKEN."
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        said = (
            f"There is no repository {repository} on the Hub that can be seen. Check the name; if "
            "it is private, set HF_TOKEN to a token that may read it."
        )
    elif status is None and (isinstance(error, OSError) or _is_transport(error)):
        said = f"The Hub cannot be reached ({one_line(str(error))}). Check the connection."
    else:
        said = f"The Hub refused {repository}: {one_line(str(error)) or type(error).__name__}"
    raise HubError(said) from error
