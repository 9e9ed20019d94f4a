"""Bundles: what goes in comes out, what is changed is named, and nothing leads elsewhere."""

import io
import json
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import prefreg
import tiny
import tiny_registry
from prefreg import OutputError, PrefregError, RegistryError, UsageError, parse_term
from prefreg.checkpoints import resolve_base
from prefreg.errors import BundleError
from prefreg.files import hash_bytes
from prefreg.registry import Store, VersionRecord
from prefreg.sharing.archive import is_member_name

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """helpful@1 and @2 and verbosity@1 with all that hangs on them; no test changes it."""
    path = tmp_path_factory.mktemp("source") / "source.db"
    metadata = {"data": {"sources": [{"source": "helpsteer2", "licence": "cc-by-nc-4.0"}]}}
    with tiny_registry.open_store(path) as store:
        tiny_registry.add(store, aliases=("help",), tags=("good",), note="φ", metadata=metadata)
        tiny_registry.add(store, values=(0.6, 0.8))
        tiny_registry.add(store, "verbosity", (0.0, 2.0))
        store.measure("helpful", 1, "score", {"value": 0.7}, "p")
        store.set_alias("helpful", 1, "stable")
        store.save_preset("calm", [parse_term("helpful@1:.6")], "evening")
        store.save_preset("both", [parse_term("helpful:1"), parse_term("verbosity:-.5")])
    return path


def bundle(source: Path, target: Path, *versions: str, **options: Any) -> Path:
    prefreg.open(source).bundle(versions, target, **options)
    return target


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of helpful@1 and helpful@2."""
    return bundle(source, tmp_path_factory.mktemp("made") / "it.zip", "helpful@1", "helpful@2")


def members(file: Path) -> Members:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(
    file: Path, content: Mapping[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]
) -> Path:
    """Write a zip file as a stranger would."""
    pairs = content if isinstance(content, list) else list(content.items())
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in pairs:
            archive.writestr(name, data)
    return file


def with_manifest(content: Members, change: Callable[[dict[str, Any]], None]) -> Members:
    manifest = json.loads(content["bundle.json"])
    change(manifest)
    return content | {"bundle.json": json.dumps(manifest).encode()}


def described(content: Members) -> Members:
    """Name every member in the manifest with its right hash, as a forger would."""
    others = {name: data for name, data in content.items() if not name.startswith("bundle.")}
    files = {n: {"sha256": hash_bytes(data), "size": len(data)} for n, data in others.items()}
    return with_manifest(content, lambda manifest: manifest.update(files=files))


def bytes_of(store: Store, record: VersionRecord) -> bytes:
    found = store.vector_source(record, rehash=True)
    return found if isinstance(found, bytes) else found.read_bytes()


def test_what_goes_in_comes_out(source: Path, made: Path, tmp_path: Path) -> None:
    done = prefreg.open(tmp_path / "new.db").unbundle(made)
    assert (done.aliases, done.presets, done.left) == (("helpful@stable",), ("calm@1",), ())
    assert (done.signed, done.verified, done.base) == (False, False, None)
    assert done.licences.line.startswith("no commercial use: data helpsteer2 of helpful@1")
    with (
        Store.open(source, write=False) as old,
        Store.open(tmp_path / "new.db", write=False) as new,
    ):
        assert new.verify() == []
        for number in ("1", "2"):
            there, here = old.resolve("helpful", number), new.resolve("helpful", number)
            origin = here.metadata.pop("origin")
            assert here == replace(there, base=replace(there.base, created=here.base.created))
            assert (origin["bundle"], origin["version"]) == ("it.zip", f"helpful@{number}")
            assert bytes_of(new, here) == bytes_of(old, there)
        assert new.preset("calm").terms == (parse_term("helpful@1:.6"),)
        assert new.preset("calm").note == "evening"
        assert [preset.name for preset in new.presets()] == ["calm"]  # both names verbosity too
        before = new.versions()
    again = prefreg.open(tmp_path / "new.db").unbundle(made)
    assert [each.added for each in again.versions] == [False, False]
    assert (again.aliases, again.presets, again.left) == ((), (), ())
    with Store.open(tmp_path / "new.db", write=False) as new:
        assert new.versions() == before


def test_equal_versions_give_equal_bytes(source: Path, made: Path, tmp_path: Path) -> None:
    again = bundle(source, tmp_path / "again.zip", "helpful@2", "help@stable")
    assert again.read_bytes() == made.read_bytes()
    hashes = [hash_bytes(data) for name, data in members(made).items() if name.startswith("v")]
    assert list(members(made)) == [
        "bundle.json",
        "records/helpful@1.json",
        "records/helpful@2.json",
        *(f"vectors/{each}.safetensors" for each in hashes),
        "bom.cdx.json",
        "README.md",
    ]


def test_the_bill_names_hashes_and_licences(made: Path) -> None:
    bill = json.loads(members(made)["bom.cdx.json"])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {each["bom-ref"]: each for each in bill["components"]}
    assert sorted(found) == [
        "base org/small",
        "data helpsteer2 of helpful@1",
        "helpful@1",
        "helpful@2",
        "what helpful@2 was made of",
    ]
    assert found["data helpsteer2 of helpful@1"]["licenses"] == [
        {"license": {"id": "CC-BY-NC-4.0"}}
    ]
    vector = json.loads(members(made)["records/helpful@1.json"])
    assert found["helpful@1"]["hashes"] == [{"alg": "SHA-256", "content": vector["sha256"]}]
    needs = {each["ref"]: each.get("dependsOn") for each in bill["dependencies"]}
    assert needs["helpful@1"] == ["base org/small", "data helpsteer2 of helpful@1"]
    assert needs["bundle"] == ["helpful@1", "helpful@2"]
    assert bill["metadata"]["timestamp"] == "2026-03-01T10:00:00+00:00"  # of the newest version


def test_the_card_says_what_it_may_be_used_for(made: Path) -> None:
    card = members(made)["README.md"].decode()
    assert "| helpful@1 | dense F32 | 136 B |" in card
    assert "- No commercial use: data helpsteer2 of helpful@1 (cc-by-nc-4.0)." in card


def test_a_preset_brings_the_versions_that_it_names(source: Path, tmp_path: Path) -> None:
    done = prefreg.open(source).bundle((), tmp_path / "b.zip", presets=["both"])
    assert list(map(str, done.records)) == ["helpful@2", "verbosity@1"]
    assert list(map(str, done.presets)) == ["both@1"]
    with pytest.raises(RegistryError, match="has no preset 'clam'"):
        prefreg.open(source).bundle((), tmp_path / "c.zip", presets=["clam"])
    with pytest.raises(UsageError, match="Say what to bundle"):
        prefreg.open(source).bundle((), tmp_path / "c.zip")


def test_a_large_vector_lies_beside_the_registry(tmp_path: Path) -> None:
    with tiny_registry.open_store(tmp_path / "r.db") as store:
        tiny_registry.add(store, values=[0.5] * 1_100_000)
    file = bundle(tmp_path / "r.db", tmp_path / "b.zip", "helpful")
    prefreg.open(tmp_path / "new.db").unbundle(file)
    with Store.open(tmp_path / "new.db", write=False) as store:
        assert store.resolve("helpful").inline is False
        assert store.verify() == []


def test_a_number_that_is_taken_stores_nothing(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with tiny_registry.open_store(path) as store:
        tiny_registry.add(store, values=(9.0, 9.0))
        tiny_registry.add(store, values=(8.0, 9.0))
        store.remove("helpful", 1)
        before = store.versions()
    registry = prefreg.open(path)
    with pytest.raises(RegistryError, match=r"helpful@1 was used before there\. Use `renumber=`"):
        registry.unbundle(made)
    assert [str(each) for each in registry.summaries()] == ["helpful@2"]
    done = registry.unbundle(made, renumber=True)
    assert [str(each.record) for each in done.versions] == ["helpful@3", "helpful@4"]
    assert registry.preset("calm").terms == (parse_term("helpful@3:.6"),)  # the same vector
    assert registry.show("helpful", "stable").number == 3
    with Store.open(path, write=False) as store:
        assert store.versions()[0] == before[0]


def test_what_stands_here_stays(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with tiny_registry.open_store(path) as store:
        tiny_registry.add(store, "verbosity")
        tiny_registry.add(store, values=(1.0, 0.0))  # helpful@1, with the same bytes
        tiny_registry.add(store, values=(0.6, 0.8))
        store.set_alias("helpful", 2, "stable")
        store.save_preset("calm", [parse_term("verbosity:1")])
    done = prefreg.open(path).unbundle(made)
    assert [each.added for each in done.versions] == [False, False]
    assert done.left == (
        "helpful@stable is version 2 here and stays it.",
        "The preset calm@1 is another one here and stays it.",
    )
    assert prefreg.open(path).preset("calm").terms == (parse_term("verbosity:1"),)


def test_a_name_that_is_something_else_here_stores_nothing(source: Path, tmp_path: Path) -> None:
    file = bundle(source, tmp_path / "b.zip", "helpful@1", "verbosity@1")
    with tiny_registry.open_store(tmp_path / "new.db") as store:
        tiny_registry.add(store, "kind")
        store.save_preset("verbosity", [parse_term("kind:1")])
    with pytest.raises(RegistryError, match="'verbosity' is a preset here"):
        prefreg.open(tmp_path / "new.db").unbundle(file)
    assert [str(each) for each in prefreg.open(tmp_path / "new.db").summaries()] == ["kind@1"]


def test_a_file_that_is_there_is_replaced_only_on_request(source: Path, tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_text("my thesis")
    with pytest.raises(OutputError, match=r"b.zip exists. Name another file, or use `overwrite=`"):
        bundle(source, tmp_path / "b.zip", "helpful")
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        bundle(source, tmp_path / "nowhere" / "b.zip", "helpful")
    with pytest.raises(OutputError, match=r"b.zip is no bundle, so it is not replaced"):
        bundle(source, tmp_path / "b.zip", "helpful", overwrite=True)
    assert (tmp_path / "b.zip").read_text() == "my thesis"
    bundle(source, tmp_path / "c.zip", "helpful@1")
    bundle(source, tmp_path / "c.zip", "helpful@2", overwrite=True)
    assert "records/helpful@2.json" in members(tmp_path / "c.zip")


def refused(file: Path, folder: Path, **options: Any) -> str:
    """Return why a bundle is refused; nothing may be stored or written anywhere."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(PrefregError) as error:
        prefreg.open(folder / "new.db").unbundle(file, **options)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert "\n" not in str(error.value)
    return str(error.value)


def info(name: str, *, mode: int = 0, flags: int = 0, deflated: bool = False) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr, made.flag_bits = mode << 16, flags
    made.compress_type = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    return made


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ([("../evil", b"")], "names a file as no file of prefreg is named ('../evil')"),
        ([("/etc/evil", b"")], "is named ('/etc/evil')"),
        ([("base/../../evil", b"")], "is named ('base/../../evil')"),
        ([("base\\evil", b"")], "is named"),
        ([(".hidden", b"")], "is named ('.hidden')"),
        ([("C:evil", b"")], "is named ('C:evil')"),
        ([("a//b", b"")], "is named ('a//b')"),
        ([("folder/", b"")], "is named ('folder/')"),
        ([("ф", b"")], "is named ('\\u0444')"),
        ([("a" * 201, b"")], "is named ('aaa"),
        ([("x", b"1"), ("X", b"2")], "holds two files of the name ('X')"),
        (
            [(info("x", mode=stat.S_IFLNK | 0o777), b"/etc/passwd")],
            "other than a plain file, ('x')",
        ),
        ([(info("x", mode=stat.S_IFIFO), b"")], "other than a plain file, ('x')"),
        ([(info("x", deflated=True), b"0" * 99)], "holds a compressed file, ('x')"),
        ([(info("x", deflated=True), b"0" * 10_000_000)], "holds more than it has"),
        ([("x", b"more")], "bundle.json of "),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_no_bundle_holds_is_refused(
    made: Path, tmp_path: Path, extra: list[Any], said: str
) -> None:
    file = pack(tmp_path / "b.zip", [*members(made).items(), *extra])
    assert said in refused(file, tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(made: Path, tmp_path: Path) -> None:
    content = members(made)
    for name, data in content.items():
        file = pack(tmp_path / "b.zip", [*content.items(), (name, data)])
        assert f"holds two files of the name ('{name}')" in refused(file, tmp_path)


def test_a_file_that_ends_early_is_refused(made: Path, tmp_path: Path) -> None:
    data = made.read_bytes()
    for length in [0, 1, 30, *range(100, len(data), len(data) // 40), len(data) - 1]:
        (tmp_path / "b.zip").write_bytes(data[:length])
        said = refused(tmp_path / "b.zip", tmp_path)
        assert ("b.zip is cut short or damaged" if length > 3 else "b.zip is no bundle") in said


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_text("my thesis")
    assert "b.zip is no bundle. `prefreg bundle` writes one." in refused(
        tmp_path / "b.zip", tmp_path
    )
    pack(tmp_path / "b.zip", {"thesis.txt": b"mine"})
    assert "b.zip is no bundle: it has no bundle.json" in refused(tmp_path / "b.zip", tmp_path)
    pack(tmp_path / "b.zip", {"bundle.json": b"[1]"})
    assert "bundle.json of " in refused(tmp_path / "b.zip", tmp_path)
    assert "There is no file" in refused(tmp_path / "none.zip", tmp_path)
    assert "Is a directory" in refused(tmp_path, tmp_path)


def test_a_newer_format_is_said_to_be_newer(made: Path, tmp_path: Path) -> None:
    newer = with_manifest(members(made), lambda manifest: manifest.update(format=2))
    said = refused(pack(tmp_path / "b.zip", newer), tmp_path)
    assert said.endswith("is of format 2, and this prefreg knows formats up to 1. Upgrade prefreg.")


def test_a_changed_byte_names_its_file(made: Path, tmp_path: Path) -> None:
    content, whole = members(made), made.read_bytes()
    for name, data in content.items():
        place = whole.index(data)
        damaged = bytearray(whole)
        damaged[place + len(data) // 2] ^= 1  # which zip's own checksum tells
        (tmp_path / "b.zip").write_bytes(damaged)
        assert refused(tmp_path / "b.zip", tmp_path).startswith(f"{name} of ")
        if name != "bundle.json":  # what a forger writes, ours alone tells
            other = data[:-1] + bytes([data[-1] ^ 1])
            pack(tmp_path / "b.zip", content | {name: other})
            said = refused(tmp_path / "b.zip", tmp_path)
            assert f"{name} of {tmp_path / 'b.zip'} was changed or damaged" in said


def forged(change: Callable[[Members], None], made: Path) -> Members:
    content = members(made)
    change(content)
    return described(content)


def test_records_and_vectors_must_belong_together(made: Path, tmp_path: Path) -> None:
    content = members(made)
    vector = next(name for name in content if name.startswith("vectors/"))
    record = json.loads(content["records/helpful@1.json"])

    def written(**changes: Any) -> bytes:
        return json.dumps(record | changes).encode()

    swapped = described(content | {vector: b"pickled" * 20})
    assert "lacks the bytes of helpful@" in refused(pack(tmp_path / "b.zip", swapped), tmp_path)
    twice = described(content | {"records/helpful@2.json": content["records/helpful@1.json"]})
    assert "cannot hold such a helpful@1" in refused(pack(tmp_path / "b.zip", twice), tmp_path)
    huge = described(content | {"records/helpful@1.json": written(version=2**40)})
    assert "cannot hold such a helpful@1099" in refused(pack(tmp_path / "b.zip", huge), tmp_path)
    two = described(
        content | {"records/helpful@1.json": written(axis="kind", axis_aliases=["helpful"])}
    )
    assert "calls two axes 'helpful'" in refused(pack(tmp_path / "b.zip", two), tmp_path)
    pickled = b"\x80\x04pickle"
    digest = hash_bytes(pickled)
    lies = content | {
        f"vectors/{digest}.safetensors": pickled,
        "records/helpful@1.json": written(sha256=digest, size=len(pickled)),
    }
    said = refused(pack(tmp_path / "b.zip", described(lies)), tmp_path)
    assert "The vector of helpful@1" in said
    assert said.endswith("Nothing was stored.")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": []}, "ValueError: it names no version"),
        ({"versions": [{"record": "../x", "aliases": []}]}, "ValueError: it lacks ../x"),
        ({"versions": [{"record": "README.md", "aliases": []}]}, "is no record of a vector"),
        ({"versions": 7}, "TypeError"),
        ({"presets": [{"name": "Calm", "terms": [], "note": None}]}, "is no name of a preset"),
        ({"presets": [{"name": "calm", "terms": ["x"], "note": 1}]}, "a note is no text"),
        ({"base": "0" * 64}, "holds a base of no version"),
        ({"files": {}}, "is not the file that it names"),
        ({"files": None}, "AttributeError"),
        ({"presets": [{"name": "calm", "terms": [], "note": "\ud800"}]}, "is none of prefreg"),
    ],
)
def test_a_manifest_that_says_nonsense_is_refused(
    made: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    content = with_manifest(members(made), lambda manifest: manifest.update(change))
    assert said in refused(pack(tmp_path / "b.zip", content), tmp_path)


# Signatures


Keys = Callable[[str], tuple[Path, Path]]


@pytest.fixture
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Make the files of a pair of keys: `private, public = keys("mine")`."""
    folder = tmp_path_factory.mktemp("keys")

    def make(name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        return write_keys(folder / name, key)

    return make


def write_keys(path: Path, key: Any, password: bytes | None = None) -> tuple[Path, Path]:
    private, public = path.with_suffix(".private"), path.with_suffix(".public")
    hidden: Any = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def test_a_signature_is_by_one_key_of_one_bundle(source: Path, tmp_path: Path, keys: Keys) -> None:
    (mine, my_public), (other, other_public) = keys("mine"), keys("other")
    file = bundle(source, tmp_path / "b.zip", "helpful@1", key=mine)
    said = refused(file, tmp_path, public_key=other_public)
    assert said == (
        f"{file} was not signed with the key of {other_public}, or was changed after it was. "
        "Nothing was stored; ask whom you have it from."
    )
    again = bundle(source, tmp_path / "again.zip", "helpful@1", key=other)
    assert "was not signed with the key of" in refused(again, tmp_path, public_key=my_public)
    unsigned = bundle(source, tmp_path / "c.zip", "helpful@1")
    assert "c.zip is not signed, so no key" in refused(unsigned, tmp_path, public_key=my_public)

    content = members(file)
    later = members(bundle(source, tmp_path / "d.zip", "helpful@2", key=mine))
    for changed in (
        content | {"bundle.sig": later["bundle.sig"]},  # of another bundle
        content | {"bundle.json": content["bundle.json"] + b" "},
        content | {"bundle.sig": b""},
        content | {"bundle.sig": b"{}"},
        content | {"bundle.sig": b"\xff"},
        content | {"bundle.sig": members(again)["bundle.sig"]},
    ):
        pack(tmp_path / "e.zip", changed)
        said = refused(tmp_path / "e.zip", tmp_path, public_key=my_public)
        assert "was not signed with the key of" in said
    vector = next(name for name in content if name.startswith("vectors/"))
    pack(tmp_path / "e.zip", content | {vector: b"0" * len(content[vector])})
    said = refused(tmp_path / "e.zip", tmp_path, public_key=my_public)
    assert f"{vector} of {tmp_path / 'e.zip'} was changed" in said

    done = prefreg.open(tmp_path / "new.db").unbundle(file, public_key=my_public)
    assert (done.signed, done.verified) == (True, True)
    done = prefreg.open(tmp_path / "new.db").unbundle(file)
    assert (done.signed, done.verified) == (True, False)


def test_keys_that_cannot_sign_are_refused_by_name(
    source: Path, tmp_path: Path, keys: Keys
) -> None:
    private, public = keys("mine")
    (tmp_path / "text").write_text("a key")
    strange, _ = write_keys(tmp_path / "rsa", rsa.generate_private_key(65537, 2048))
    locked, _ = write_keys(tmp_path / "locked", ec.generate_private_key(ec.SECP256R1()), b"word")
    for key in (public, tmp_path / "text", strange, locked, tmp_path / "none"):
        with pytest.raises(UsageError, match=f"{key.name} is no private key to sign with"):
            bundle(source, tmp_path / "b.zip", "helpful@1", key=key)
    assert not (tmp_path / "b.zip").exists()
    file = bundle(source, tmp_path / "b.zip", "helpful@1", key=private)
    for key in (private, tmp_path / "text", tmp_path / "none"):
        assert f"{key} is no public key" in refused(file, tmp_path, public_key=key)


def test_without_the_library_the_extra_is_named(
    source: Path, tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("model_signing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "OpenSSL", None)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(UsageError, match=r"Signatures need .*pip install 'prefreg\[signing\]'"):
        bundle(source, tmp_path / "b.zip", "helpful@1", key=keys("mine")[0])
    assert not (tmp_path / "b.zip").exists()


# The base


@pytest.fixture(scope="module")
def on_base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A registry with one vector on a real base, and that base, which runs no code of its own."""
    folder = tmp_path_factory.mktemp("based")
    base = tiny.save(tiny.llama(tied=True), folder / "base")
    (base / "modeling.py").write_text("raise SystemExit")
    (base / "LICENSE").write_text("of the base")
    found = resolve_base(str(base))
    identity = tiny_registry.base(str(base), path=str(base), weights=found.fingerprint.weights)
    with tiny_registry.open_store(folder / "r.db") as store:
        tiny_registry.add(store, on=identity)
    return folder / "r.db", base


def test_a_base_travels_too(on_base: tuple[Path, Path], tmp_path: Path) -> None:
    registry, base = on_base
    file = bundle(registry, tmp_path / "b.zip", "helpful", with_base=True)
    assert str(base.parent).encode() not in file.read_bytes()
    done = prefreg.open(tmp_path / "new.db").unbundle(file, base_to=tmp_path / "there")
    assert done.base == tmp_path / "there"
    there = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    here = {path.name: path.read_bytes() for path in base.iterdir() if path.suffix != ".py"}
    assert there == here
    (known,) = prefreg.open(tmp_path / "new.db").bases()
    assert known.path == str(tmp_path / "there")
    # A folder that holds it already stays; so a call that was killed is made once more.
    again = prefreg.open(tmp_path / "second.db")
    again.unbundle(file, base_to=tmp_path / "there")
    assert again.bases()[0].path == str(tmp_path / "there")
    assert {each.name: each.read_bytes() for each in (tmp_path / "there").iterdir()} == there
    (tmp_path / "there" / "model.safetensors").unlink()
    with pytest.raises(OutputError, match="there is not empty"):
        again.unbundle(file, base_to=tmp_path / "there")
    assert prefreg.open(tmp_path / "other.db").unbundle(file).held_base is True


def test_a_base_that_is_another_leaves_nothing(on_base: tuple[Path, Path], tmp_path: Path) -> None:
    content = members(bundle(on_base[0], tmp_path / "a.zip", "helpful", with_base=True))
    tiny.llama(tied=True, seed=7).save_pretrained(tmp_path / "model")
    other = content | {
        "base/model.safetensors": (tmp_path / "model/model.safetensors").read_bytes()
    }
    file = pack(tmp_path / "b.zip", described(other))
    said = refused(file, tmp_path, base_to=tmp_path / "there")
    assert "The base in" in said
    for name in ("base/modeling.py", "base/pytorch_model.bin", "base/a/b/c.json"):
        file = pack(tmp_path / "b.zip", described(content | {name: b"1"}))
        said = refused(file, tmp_path, base_to=tmp_path / "there")
        assert f"{name} of {file} is no file of a base." in said
    assert not (tmp_path / "there").exists()


def test_a_base_is_one_and_is_in_it(source: Path, made: Path, tmp_path: Path) -> None:
    with tiny_registry.open_store(tmp_path / "r.db") as store:
        tiny_registry.add(store)
        tiny_registry.add(store, on=tiny_registry.base("org/other"))
    with pytest.raises(UsageError, match=r"on several bases \(org/other, org/small\)"):
        bundle(tmp_path / "r.db", tmp_path / "b.zip", "helpful@1", "helpful@2", with_base=True)
    said = refused(made, tmp_path, base_to=tmp_path / "there")
    assert said.endswith("holds no base: leave `base_to=` out.")


# Whatever the bytes are


QUICK = settings(max_examples=150, phases=[Phase.explicit, Phase.generate])


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    yield folder
    assert {path.name for path in folder.iterdir()} <= {"b.zip", "new.db"}  # nothing elsewhere


def take(room: Path, known: list[VersionRecord]) -> None:
    """Unbundle what lies there: it is refused, or holds nothing but what was bundled."""
    (room / "new.db").unlink(missing_ok=True)
    try:
        prefreg.open(room / "new.db").unbundle(room / "b.zip")
    except PrefregError:
        if (room / "new.db").exists():
            assert prefreg.open(room / "new.db").summaries() == []
        return
    with Store.open(room / "new.db", write=False) as store:
        assert store.verify() == []
        found = {(each.axis, each.number, each.sha256) for each in store.versions()}
        assert found <= {(each.axis, each.number, each.sha256) for each in known}


@QUICK
@given(data=st.data())
def test_any_damage_is_refused_or_harmless(
    source: Path, made: Path, room: Path, data: st.DataObject
) -> None:
    whole = bytearray(made.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "copy"])):
            case "flip":
                whole[place] ^= data.draw(st.integers(1, 255))
            case "cut":
                del whole[place : place + data.draw(st.integers(1, 200))]
            case "insert":
                whole[place:place] = data.draw(st.binary(min_size=1, max_size=40))
            case "copy":
                whole += whole[place : place + 400]
    (room / "b.zip").write_bytes(whole)
    take(room, prefreg.open(source).summaries())  # type: ignore[arg-type]


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["helpful@1:1", "helpful", "records/helpful@1.json", "../x", "stable"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["record", "aliases", "name", "terms", "note", "sha256", "size"]), inner
        )
    ),
    max_leaves=8,
)


@settings(QUICK, max_examples=60)
@given(
    key=st.sampled_from(["versions", "presets", "base", "files", "format"]),
    value=_VALUES,
    inside=st.booleans(),
)
def test_any_manifest_is_refused_or_harmless(
    source: Path, made: Path, room: Path, key: str, value: Any, inside: bool
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        entry = manifest[key][0] if inside and key in ("versions", "presets") else None
        if entry is not None:
            entry.update(dict.fromkeys(list(entry)[:2], value))
        else:
            manifest[key] = value

    pack(room / "b.zip", with_manifest(members(made), change))
    take(room, prefreg.open(source).summaries())  # type: ignore[arg-type]


@given(name=st.text(alphabet="ab./\\@:-_~ \x00é", max_size=12) | st.text(max_size=12))
def test_no_name_leads_out_of_a_folder(name: str) -> None:
    if is_member_name(name):
        inside = Path("/a/folder")
        assert inside in (inside / name).parents
        assert ".." not in Path(name).parts
        assert io.StringIO(name).read() == name.strip()


def test_what_no_file_can_hold_is_replaced(tmp_path: Path) -> None:
    with tiny_registry.open_store(tmp_path / "r.db") as store:
        tiny_registry.add(store, metadata={"said": "a \ud800 b"})
    file = bundle(tmp_path / "r.db", tmp_path / "b.zip", "helpful")
    done = prefreg.open(tmp_path / "new.db").unbundle(file)
    assert done.versions[0].record.metadata["said"] == "a ? b"


def test_metadata_that_no_run_wrote_is_refused_or_travels(made: Path, tmp_path: Path) -> None:
    content = members(made)
    record = json.loads(content["records/helpful@1.json"])

    def with_metadata(metadata: dict[str, Any]) -> Path:
        content["records/helpful@1.json"] = json.dumps(record | {"metadata": metadata}).encode()
        return pack(tmp_path / "b.zip", described(content))

    for metadata in ({"base": [1]}, {"data": {"sources": 7}}, {"data": []}, {"poles": 7}):
        assert "records/helpful@1.json of" in refused(with_metadata(metadata), tmp_path)
    strange = {"base": {"licence": {"licence": 7}}, "licence": {}, "origin": [None]}
    done = prefreg.open(tmp_path / "new.db").unbundle(with_metadata(strange))
    assert done.licences.parts[1].what == "what helpful@1 was made of"
    again = bundle(tmp_path / "new.db", tmp_path / "again.zip", "helpful@1")
    found = prefreg.open(tmp_path / "newer.db").unbundle(again).versions[0].record
    assert found.metadata["origin"]["before"]["before"] == [None]


def test_a_registry_is_not_made_of_a_bundle_that_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copy(made, tmp_path / "b.zip")
    with (tmp_path / "b.zip").open("r+b") as file:
        file.seek(200)
        file.write(b"damage")
    with pytest.raises(BundleError):
        prefreg.open(tmp_path / "new.db").unbundle(tmp_path / "b.zip")
    assert not (tmp_path / "new.db").exists()
