"""Bundles: versions in one file that can be mailed or carried, and what is taken out of one.

A bundle is a zip file that any tool opens: vectors, records, a bill of materials and perhaps the
base; its manifest names every other file with its hash, and is what a key signs. Whoever opens one
checks the signature and every hash before a byte is stored, and reads records as strangers'.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from prefreg.checkpoints.base_licence import CARD_FILE
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.checkpoints.checkpoint import CONFIG_FILE, INDEX_FILE, companions
from prefreg.composition.output import SMALL_FILES_BYTES, new_folder, require_usable
from prefreg.composition.resolve import find_base
from prefreg.errors import (
    BaseModelError,
    BundleError,
    NotStoredError,
    OutputError,
    PrefregError,
    RegistryError,
    UsageError,
    VectorError,
)
from prefreg.files import at_hand, hash_bytes, hash_file, human_size, replacing, work_folder
from prefreg.json_values import fields_to_json
from prefreg.progress import Progress
from prefreg.registry import INLINE_LIMIT, Access, Copied, Preset, Store, VersionRecord
from prefreg.registry.licences import Licences, licences_of
from prefreg.registry.presets import check_preset_name
from prefreg.registry.transfer import check_copies
from prefreg.sharing import signing
from prefreg.sharing.archive import Archive, changed, is_member_name, write_archive
from prefreg.sharing.record_file import FORMAT, read_document, read_record, record_file
from prefreg.terms import ALIAS_NAME, Term, parse_term
from prefreg.values import SMALL

MANIFEST_FILE = "bundle.json"
SIGNATURE_FILE = "bundle.sig"
_BASE = "base/"
_MOST_NUMBER = 10**9
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*")
_OF_BASES = {
    "", ".codes", ".jinja", ".json", ".md", ".model", ".safetensors", ".spm", ".tiktoken",
    ".tokenizer", ".txt",
}  # fmt: skip
"""Endings of files that a base may bring: none that is run or unpickled."""

Reference = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Bundled:
    """A bundle that was written."""

    path: Path
    records: tuple[VersionRecord, ...]
    presets: tuple[Preset, ...]
    base: str | None
    """The base that is in it."""
    signed: bool
    size: int
    licences: Licences

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        found = fields_to_json(self)
        del found["records"]
        return found | {"versions": [record.summary() for record in self.records]}


@dataclass(frozen=True, slots=True)
class Unbundled:
    """What was taken out of a bundle."""

    versions: tuple[Copied, ...]
    aliases: tuple[str, ...]
    """That were set, as in `helpful@stable`."""
    presets: tuple[str, ...]
    """That were saved."""
    left: tuple[str, ...]
    """What was not taken as it stands here otherwise, in a sentence each."""
    base: Path | None
    """Where the base was written to."""
    held_base: bool
    signed: bool
    verified: bool
    """Whether a key was at hand and the signature is by its owner."""
    licences: Licences

    def to_json(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        versions = [
            each.record.summary() | {"added": each.added, "registry": each.registry}
            for each in self.versions
        ]
        return fields_to_json(self) | {"versions": versions}


def write_bundle(
    access: Access,
    references: Sequence[Reference],
    output: Path,
    *,
    presets: Sequence[str] = (),
    key: Path | None = None,
    with_base: bool = False,
    overwrite: bool = False,
) -> Bundled:
    """Write versions, and those that presets name, to one file, whole or not at all.

    With them go their aliases, and the presets given or, where none is, all that name nothing but
    these versions. Equal versions give equal bytes, but for a signature.

    Raises:
        UsageError: Nothing is named, or the key is none.
        RegistryError: There is no such version or preset.
        BaseModelError: The base is missing or another one.
        OutputError: The file is there already or cannot be written.
    """
    if not references and not presets:
        raise UsageError("Say what to bundle, as in helpful@1, or a --preset.")
    _check_output(output, overwrite=overwrite)
    with access.reading() as store:
        named = [store.preset(name) for name in presets]
        terms = [term for preset in named for term in preset.terms]
        wanted = [*references, *((term.axis, term.reference) for term in terms)]
        found = {(each.axis, each.number): each for each in (store.resolve(*r) for r in wanted)}
        records = [found[key] for key in sorted(found)]
        base = _only_base(records) if with_base else None
        going = named or [
            each for each in store.presets() if _numbers(store, each.terms) <= found.keys()
        ]
        members: dict[str, bytes | Path] = {}
        sources = {each.sha256: store.vector_source(each, rehash=True) for each in records}
        for record in records:
            members[_record_name(record)] = record_file(record)
        for sha256, source in sources.items():
            members[_vector_name(sha256)] = at_hand(source)
        from prefreg.sharing.bill import BILL_FILE, bill_of_materials  # its library takes a second

        licences = licences_of(records)
        members[BILL_FILE] = bill_of_materials(records)
        members["README.md"] = _card(records, licences)
        members |= {} if base is None else _base_files(base)
        manifest = _manifest(records, going, base, members)
        head = {MANIFEST_FILE: manifest}
        if key is not None:
            head[SIGNATURE_FILE] = signing.sign(MANIFEST_FILE, manifest, key)
        try:
            with replacing(output, durable=True) as partial:
                write_archive(partial, {**head, **members})
        except OSError as error:
            raise OutputError(f"{output} cannot be written: {error.strerror}.") from error
    name = None if base is None else str(base)
    return Bundled(
        output, tuple(records), tuple(going), name, key is not None, output.stat().st_size, licences
    )


def unbundle(
    access: Access,
    file: Path,
    *,
    public_key: Path | None = None,
    base_to: Path | None = None,
    renumber: bool = False,
    progress: Progress | None = None,
) -> Unbundled:
    """Take what a bundle holds into a registry, which is created if need be.

    Versions keep their numbers where they are free, else all get the next ones with `renumber`.
    What is here already stays as it is: equal versions, aliases and presets of that name, and a
    folder that holds the base. So the same call goes on where one was ended.

    Raises:
        BundleError: It is no bundle, newer, damaged, or not signed with the key.
        RegistryError: A number or name means something else here; nothing was stored.
        OutputError: The folder for the base cannot be written.
        UsageError: There is no base in it, or the public key is none.
    """
    with Archive.open(file) as archive, ExitStack() as opened:
        bundle = _Bundle(archive, public_key)
        there = base_to is not None and _holds(base_to, bundle.base)
        if base_to is not None and not there:
            require_usable(base_to.resolve(), overwrite=None, keep=())
        bundle.check(progress)
        if base_to is not None and not there:
            opened.enter_context(_base_at(bundle, base_to))
        with access.writing() as store:
            check_copies(store, bundle.records, renumber=renumber)
            versions = tuple(
                store.take(record, source, renumber=renumber)
                for record in bundle.records
                for source in bundle.source(record)
            )
            aliases, kept = _set_aliases(store, bundle, versions)
            presets, others = _save_presets(store, bundle, versions)
            opened.close()  # the base takes its place
            if base_to is not None and bundle.base is not None:
                store.relocate_base(bundle.base, base_to.resolve())
        return Unbundled(
            versions, aliases, presets, (*kept, *others), base_to, bundle.base is not None,
            bundle.signed, public_key is not None, licences_of(bundle.records),
        )  # fmt: skip


class _Bundle:
    """A bundle whose manifest was read, and checked if a key is at hand."""

    def __init__(self, archive: Archive, public_key: Path | None) -> None:
        self.archive = archive
        place = archive.place
        if MANIFEST_FILE not in archive.sizes:
            raise BundleError(f"{place} is no bundle: it has no {MANIFEST_FILE}.")
        data = archive.read(MANIFEST_FILE, SMALL)
        self.signed = SIGNATURE_FILE in archive.sizes
        if public_key is not None:
            if not self.signed:
                raise BundleError(
                    f"{place} is not signed, so no key says whose it is. Nothing was stored."
                )
            signature = archive.read(SIGNATURE_FILE, SMALL)
            signing.verify(MANIFEST_FILE, data, signature, public_key, place)
        self.digest = hash_bytes(data)
        strange = f"{MANIFEST_FILE} of {place} is none of prefreg."
        content = read_document(data, "bundle", strange, place)
        try:
            self._read(content)
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise BundleError(
                f"{MANIFEST_FILE} of {place} is damaged ({type(error).__name__}: {error})."
            ) from error

    def _read(self, content: Mapping[str, Any]) -> None:
        self.files: dict[str, str] = {
            name: str(each["sha256"]) for name, each in content["files"].items()
        }
        sizes = {name: each["size"] for name, each in content["files"].items()}
        ours = (MANIFEST_FILE, SIGNATURE_FILE)
        there = {name: size for name, size in self.archive.sizes.items() if name not in ours}
        if sizes != there:
            name = min(each for each in {**sizes, **there} if sizes.get(each) != there.get(each))
            raise ValueError(f"{name} is not the file that it names")
        self._named = [
            (str(each["record"]), [_alias(alias) for alias in each["aliases"]])
            for each in content["versions"]
        ]
        if not self._named:
            raise ValueError("it names no version")
        if lacking := [name for name, _ in self._named if name not in sizes]:
            raise ValueError(f"it lacks {lacking[0]}")
        self.presets: list[tuple[str, list[Term], str | None]] = []
        for each in content["presets"]:
            check_preset_name(each["name"])
            note = each["note"]
            if not isinstance(note, str | None):
                raise TypeError("a note is no text")
            self.presets.append((each["name"], [parse_term(text) for text in each["terms"]], note))
        self.base: str | None = content["base"] and str(content["base"])
        self.carried: list[tuple[VersionRecord, list[str]]] = []

    @property
    def records(self) -> list[VersionRecord]:
        """The versions in it, ordered by axis and number."""
        return [record for record, _ in self.carried]

    def check(self, progress: Progress | None) -> None:
        """Read every byte and every record, before anything is stored."""
        place = self.archive.place
        for done, (name, digest) in enumerate(self.files.items()):
            if progress is not None:
                progress("checking", done, len(self.files))
            if self.archive.hash(name) != digest:
                raise changed(name, place)
        bearers: dict[str, str] = {}
        seen: set[str] = set()
        for name, aliases in self._named:
            record = read_record(self.archive.read(name, SMALL), f"{name} of {place}")
            vector = _vector_name(record.sha256)
            if self.files.get(vector) != record.sha256 or self.archive.sizes[vector] != record.size:
                raise BundleError(f"{place} lacks the bytes of {record}, so nothing was stored.")
            for each in (record.axis, *record.axis_aliases):
                if bearers.setdefault(each, record.axis) != record.axis:
                    raise BundleError(f"{place} calls two axes {each!r}, so nothing was stored.")
            if str(record) in seen or record.number > _MOST_NUMBER:
                raise BundleError(f"{place} cannot hold such a {record}, so nothing was stored.")
            seen.add(str(record))
            for source in self.source(record):
                _check_vector(record, source)
            origin = {"bundle": Path(place).name, "manifest": self.digest, "version": str(record)}
            if before := record.metadata.get("origin"):
                origin["before"] = before
            taken = replace(record, metadata=record.metadata | {"origin": origin})
            self.carried.append((taken, aliases))
        self.carried.sort(key=lambda each: (each[0].axis, each[0].number))
        if self.base not in (None, *(record.base.weights for record in self.records)):
            raise BundleError(f"{place} holds a base of no version, so nothing was stored.")

    def source(self, record: VersionRecord) -> Iterator[bytes | Path]:
        """Yield the bytes of a vector once: in memory, or in a file that is there meanwhile."""
        name = _vector_name(record.sha256)
        if record.size <= INLINE_LIMIT:
            yield self.archive.read(name, INLINE_LIMIT)
            return
        with work_folder() as folder:
            self.archive.extract(name, folder / "vector")
            yield folder / "vector"


def _check_vector(record: VersionRecord, source: bytes | Path) -> None:
    from prefreg.vectors import open_vector  # loads torch

    try:
        open_vector(source, kind=record.kind, label=f"The vector of {record}").close()
    except VectorError as error:
        raise BundleError(f"{error} Nothing was stored.") from error


def _holds(folder: Path, weights: str | None) -> bool:
    """Whether a folder is the base with these weights."""
    if weights is None or not folder.is_dir():
        return False
    try:
        return resolve_base(str(folder.resolve())).fingerprint.weights == weights
    except BaseModelError:
        return False


@contextmanager
def _base_at(bundle: _Bundle, target: Path) -> Iterator[None]:
    """Write the base into a folder, which is there only if all goes well afterwards too."""
    if bundle.base is None:
        raise UsageError(f"{bundle.archive.place} holds no base: leave --base-to out.")
    names = [name for name in bundle.files if name.startswith(_BASE)]
    needed = sum(bundle.archive.sizes[name] for name in names) + SMALL_FILES_BYTES
    with new_folder(target, needed=needed, overwrite=None, keep=()) as folder:
        for name in names:
            inside = PurePosixPath(name.removeprefix(_BASE))
            if len(inside.parts) > 2 or inside.suffix not in _OF_BASES:
                raise BundleError(f"{name} of {bundle.archive.place} is no file of a base.")
            (folder / inside).parent.mkdir(exist_ok=True)
            bundle.archive.extract(name, folder / inside)
        found = resolve_base(str(folder))
        if found.fingerprint.weights != bundle.base:
            raise BundleError(f"The base in {bundle.archive.place} is another than it says.")
        yield


def _set_aliases(
    store: Store, bundle: _Bundle, versions: Sequence[Copied]
) -> tuple[tuple[str, ...], list[str]]:
    done, left = [], []
    for copied, (_, aliases) in zip(versions, bundle.carried, strict=True):
        record = copied.record
        for alias in aliases:
            name = f"{record.axis}@{alias}"
            try:
                standing = store.resolve(record.axis, alias, base=record.base.weights)
            except NotStoredError:
                store.set_alias(record.axis, record.number, alias)
                done.append(name)
                continue
            if standing.number != record.number:
                left.append(f"{name} is version {standing.number} here and stays it.")
    return tuple(done), left


def _save_presets(
    store: Store, bundle: _Bundle, versions: Sequence[Copied]
) -> tuple[tuple[str, ...], list[str]]:
    numbers = {
        (old.axis, str(old.number)): str(new.record.number)
        for old, new in zip(bundle.records, versions, strict=True)
    }
    done, left = [], []
    for name, terms, note in bundle.presets:
        here = [
            replace(term, reference=numbers.get((term.axis, term.reference or ""), term.reference))
            for term in terms
        ]
        standing = store.presets(name)
        try:
            if standing and standing[-1].terms != tuple(store.check_preset(name, here)):
                left.append(f"The preset {standing[-1]} is another one here and stays it.")
            elif not standing:
                done.append(str(store.save_preset(name, here, note)))
        except (RegistryError, UsageError) as error:
            left.append(f"The preset {name!r} was not saved: {error}")
    return tuple(done), left


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is no bundle: a registry and a private key are files too."""
    if not output.exists():
        return
    if not overwrite:
        raise OutputError(f"{output} exists. Name another file, or use --overwrite.")
    try:
        with Archive.open(output) as there:
            if MANIFEST_FILE in there.sizes:
                return
    except BundleError:
        pass
    raise OutputError(f"{output} is no bundle, so it is not replaced. Name another file.")


def _numbers(store: Store, terms: Iterable[Term]) -> set[tuple[str, int]]:
    """Return the versions that terms mean now; of a removed one, what no bundle holds."""
    try:
        records = [store.resolve(term.axis, term.reference) for term in terms]
    except PrefregError:
        return {("", 0)}
    return {(each.axis, each.number) for each in records}


def _only_base(records: Sequence[VersionRecord]) -> BaseModel:
    bases = {record.base.weights: record.base for record in records}
    if len(bases) > 1:
        names = ", ".join(sorted(base.name for base in bases.values()))
        raise UsageError(f"The versions are on several bases ({names}): leave --with-base out.")
    return find_base(next(iter(bases.values())))


def _base_files(base: BaseModel) -> dict[str, bytes | Path]:
    checkpoint = base.checkpoint
    folder = checkpoint.path
    small = (CARD_FILE, CONFIG_FILE, *(INDEX_FILE,) * checkpoint.indexed)
    licences = [path.name for pattern in _LICENCES for path in folder.glob(pattern)]
    names = {*checkpoint.shards, *small, *licences, *map(Path.as_posix, companions(folder))}
    return {
        f"{_BASE}{name}": folder / name
        for name in sorted(names)
        if (folder / name).is_file()
        and is_member_name(name)
        and PurePosixPath(name).suffix in _OF_BASES
    }


def _manifest(
    records: Sequence[VersionRecord],
    presets: Sequence[Preset],
    base: BaseModel | None,
    members: Mapping[str, bytes | Path],
) -> bytes:
    content = {
        "prefreg": "bundle",
        "format": FORMAT,
        "versions": [
            {"record": _record_name(each), "aliases": list(each.aliases)} for each in records
        ],
        "presets": [
            {"name": each.name, "terms": list(map(str, each.terms)), "note": each.note}
            for each in presets
        ],
        "base": base and base.fingerprint.weights,
        "files": {name: _described(content) for name, content in members.items()},
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _described(content: bytes | Path) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"sha256": hash_bytes(content), "size": len(content)}
    return {"sha256": hash_file(content), "size": content.stat().st_size}


def _card(records: Sequence[VersionRecord], licences: Licences) -> bytes:
    rows = [
        f"| {each} | {each.kind} {each.dtype} | {human_size(each.size)} | {each.sha256[:12]} |"
        for each in records
    ]
    lines = [
        "# A bundle of preference vectors",
        "",
        "`prefreg unbundle FILE` takes it into a registry; `bundle.json` has every hash.",
        "",
        "| version | form | size | sha256 |",
        "|---|---|---|---|",
        *rows,
        "",
        *licences.card_lines(),
    ]
    return "\n".join(chain(lines, [""])).encode()


def _record_name(record: VersionRecord) -> str:
    return f"records/{record}.json"


def _vector_name(sha256: str) -> str:
    return f"vectors/{sha256}.safetensors"


def _alias(text: str) -> str:
    if not ALIAS_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no alias")
    return text
