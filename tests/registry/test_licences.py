"""What licences on record say: each concern with its culprit, and the headers of cards."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from prefreg.checkpoints.base_licence import BaseLicence, read_licence
from prefreg.checkpoints.bases import BaseModel, resolve_base
from prefreg.registry.licences import Licences, licences_of, recorded_licence


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return tiny.in_base(lambda: tiny.llama(tied=True), tmp_path / "home" / "my-base")


def made_of(*parts: tuple[str, str | None], **metadata: Any) -> dict[str, Any]:
    sources = [
        {"source": source, "origin": "rows.jsonl" if source == "file" else f"hf:{source}"}
        | {"licence": licence}
        for source, licence in parts
    ]
    return {"data": {"source": "+".join(name for name, _ in parts), "sources": sources}, **metadata}


def card(base: BaseModel, header: str) -> BaseModel:
    (base.path / "README.md").write_text(f"---\n{header}\n---\n# Base\n")
    return base


def test_every_concern_names_its_culprits(base: BaseModel) -> None:
    card(base, "license: llama3.2\nextra_gated_prompt: Accept this.")
    records = [
        tiny.record("harmless", base, metadata=made_of(("pku", "CC-BY-NC-4.0"), ("own", "MIT"))),
        tiny.record("tone", base, number=2, metadata=made_of(("file", None), ("wiki", "GPL-3.0"))),
        tiny.record("calm", base, metadata=made_of(("fixed", "CC-BY-ND-4.0"))),
        tiny.record("old", base),
    ]
    found = licences_of(records, base)
    assert found.line == (
        "no commercial use: data pku of harmless@1 (CC-BY-NC-4.0); "
        "no derivatives: data fixed of calm@1 (CC-BY-ND-4.0); "
        "to be shared under the same licence: data wiki of tone@2 (GPL-3.0); "
        "access only for those who accept it: base my-base (llama3.2); "
        "not recorded: data rows.jsonl of tone@2, what old@1 was made of."
    )
    assert found.to_json()["parts"][0] == {
        "what": "base my-base",
        "licence": "llama3.2",
        "gated": True,
        "concerns": ["gated"],
    }
    assert list(found.to_json()["warnings"]) == [
        *("non-commercial", "no-derivatives", "share-alike", "gated", "unknown"),
    ]


def test_nothing_is_said_where_nothing_limits_the_use() -> None:
    pocket = resolve_base("pocket")
    record = tiny.record("helpful", pocket, metadata=made_of(("pocket", None)))
    for found in (licences_of([record], pocket), licences_of([record])):
        assert found.line is None
        assert [part.licence for part in found.parts] == ["Apache-2.0", "Apache-2.0"]
        assert found.card_header() == ["license: apache-2.0"]


def test_what_was_recorded_counts_where_the_base_is_not_at_hand(base: BaseModel) -> None:
    old = tiny.record("helpful", base, metadata=made_of(("own", "MIT")))
    assert licences_of([old]).line == "not recorded: base my-base."
    kept = recorded_licence(card(base, "license: cc-by-nc-4.0"))
    new = tiny.record("helpful", base, number=2, metadata=made_of(("own", "MIT"), base=kept))
    (warning,) = licences_of([old, new]).warnings().values()
    assert warning == "no commercial use: base my-base (cc-by-nc-4.0)"
    assert licences_of([new, old]).warnings() == licences_of([old, new]).warnings()


def test_of_many_culprits_the_first_are_named(base: BaseModel) -> None:
    records = [tiny.record("old", base, number=number) for number in range(1, 8)]
    line = licences_of(records, card(base, "license: mit")).line
    assert line is not None
    assert line.endswith("what old@4 was made of and 3 more.")


def test_a_licence_of_the_vector_itself_counts(base: BaseModel) -> None:
    stated = made_of(("own", "MIT"), licence="CC-BY-SA-4.0")
    record = tiny.record("helpful", base, metadata=stated)
    found = licences_of([record], card(base, "license: mit"))
    assert found.line == "to be shared under the same licence: vector helpful@1 (CC-BY-SA-4.0)."


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("license: mit", BaseLicence("mit")),
        (
            "license: other\nlicense_name: house\nlicense_link: LICENSE",
            BaseLicence("other", "house", "LICENSE"),
        ),
        ("extra_gated_heading: Say who you are", BaseLicence(gated=True)),
        ("license: [mit]", BaseLicence()),
        ("license: !!python/object:os.system x", BaseLicence()),
        ("\x00", BaseLicence()),
    ],
)
def test_the_card_of_a_base_is_read(base: BaseModel, header: str, found: BaseLicence) -> None:
    assert read_licence(base) == BaseLicence()
    assert read_licence(card(base, header)) == found


def test_a_bundled_base_has_the_licence_that_its_plugin_states() -> None:
    assert read_licence(resolve_base("pocket")) == BaseLicence("Apache-2.0")


@pytest.mark.parametrize(
    ("licences", "header"),
    [
        ((), []),
        ((None,), []),
        (("MIT", None), ["license: mit", 'license_link: "L"']),
        (("house",), ["license: other", 'license_name: "house"', 'license_link: "L"']),
        (("MIT", "CC-BY-NC-4.0"), ["license: other", "license_name: several"]),
    ],
)
def test_a_card_has_the_one_licence_or_another(
    base: BaseModel, licences: tuple[str | None, ...], header: list[str]
) -> None:
    parts = [("own", licence) for licence in licences]
    record = tiny.record("helpful", base, metadata=made_of(*parts))
    found = licences_of([record] if parts else [])
    assert replace(found, link="L").card_header() == header


def test_a_card_lists_every_licence(base: BaseModel) -> None:
    record = tiny.record("harmless", base, metadata=made_of(("pku", "CC-BY-NC-4.0")))
    lines = licences_of([record], base).card_lines()
    assert lines[4:] == [
        "| base my-base | not recorded |",
        "| data pku of harmless@1 | CC-BY-NC-4.0 |",
        "",
        "- No commercial use: data pku of harmless@1 (CC-BY-NC-4.0).",
        "- Not recorded: base my-base.",
        "",
    ]


def test_without_parts_there_is_nothing_to_say() -> None:
    assert Licences(()).line is None
