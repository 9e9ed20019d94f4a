"""What the licences on record say of the use of vectors, and of what is made of them.

Nothing is judged: what was recorded is repeated, with the things that bear it.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from prefreg.axes.row_sources import forbids_commercial_use
from prefreg.checkpoints.base_licence import BaseLicence, read_licence
from prefreg.checkpoints.bases import BaseModel
from prefreg.checkpoints.bundled import BUNDLED
from prefreg.registry.records import VersionRecord

Concern = Literal["non-commercial", "no-derivatives", "share-alike", "gated", "unknown"]

_SAID: dict[Concern, str] = {
    "non-commercial": "no commercial use",
    "no-derivatives": "no derivatives",
    "share-alike": "to be shared under the same licence",
    "gated": "access only for those who accept it",
    "unknown": "not recorded",
}
_ALIKE = {"sa", "sharealike", "sharing", "gpl", "agpl", "lgpl", "gfdl", "odbl", "osl", "eupl"}
_NOBODY_KNOWS = ("", "unknown", "other")
_MOST_SHOWN = 4

# Of the Hub, whose cards take no other: huggingface.co/docs/hub/repositories-licenses
_OF_THE_HUB = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++
osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma
"""


@dataclass(frozen=True, slots=True)
class Licensed:
    """Something that went into weights, with what was recorded of its licence."""

    what: str
    """As in `data pku-saferlhf of helpful@1`."""
    licence: str | None
    gated: bool = False

    @property
    def concerns(self) -> tuple[Concern, ...]:
        """What whoever uses the weights has to think of."""
        named = (self.licence or "").lower()
        words = set(re.split(r"[^a-z]+", named))
        found: dict[Concern, bool] = {
            "non-commercial": forbids_commercial_use(named),
            "no-derivatives": "nd" in words or "noderivatives" in words,
            "share-alike": bool(_ALIKE & words),
            "gated": self.gated,
            "unknown": named in _NOBODY_KNOWS,
        }
        return tuple(concern for concern, holds in found.items() if holds)

    def __str__(self) -> str:
        return f"{self.what} ({self.licence})" if self.licence else self.what

    def to_json(self) -> dict[str, Any]:
        """Return what is known in a form that JSON can hold."""
        return {
            "what": self.what,
            "licence": self.licence,
            "gated": self.gated,
            "concerns": list(self.concerns),
        }


@dataclass(frozen=True, slots=True)
class Licences:
    """The licences of all that went into weights: the base, the data, the vectors themselves."""

    parts: tuple[Licensed, ...]
    link: str | None = None
    """Where the licence of the base can be read, if its card says so."""

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Read what `to_json` wrote; older recipes have nothing of it."""
        parts = content.get("parts") if isinstance(content, dict) else None
        return cls(
            tuple(
                Licensed(str(part["what"]), part.get("licence"), bool(part.get("gated")))
                for part in parts or ({"what": "all of it"},)
            )
        )

    def warnings(self) -> dict[Concern, str]:
        """Say by concern, in one line each, what was recorded and of which things."""
        found: dict[Concern, str] = {}
        for concern, said in _SAID.items():
            culprits = [str(part) for part in self.parts if concern in part.concerns]
            if culprits:
                more = len(culprits) - _MOST_SHOWN
                found[concern] = f"{said}: {', '.join(culprits[:_MOST_SHOWN])}" + (
                    f" and {more} more" if more > 0 else ""
                )
        return found

    @property
    def line(self) -> str | None:
        """Say in one line what the weights may be used for; None where nothing limits it."""
        found = self.warnings()
        return f"{'; '.join(found.values())}." if found else None

    def to_json(self) -> dict[str, Any]:
        """Return the licences in a form that JSON can hold."""
        return {
            "parts": [part.to_json() for part in self.parts],
            "warnings": dict(self.warnings()),
        }

    def card_header(self) -> list[str]:
        """Return the licence for the header of a card on the Hub: the one on record, else `other`.

        Without anything on record there is none.
        """
        known = sorted({part.licence for part in self.parts if part.licence})
        if len(known) != 1:
            return ["license: other", "license_name: several"] if known else []
        header = [f"license: {known[0].lower()}"]
        if known[0].lower() not in _OF_THE_HUB.split():
            header = ["license: other", f"license_name: {json.dumps(known[0])}"]
        return [*header, f"license_link: {json.dumps(self.link)}"] if self.link else header

    def card_lines(self) -> list[str]:
        """Return a section for a card: every licence on record, and what it says of the use."""
        return [
            "## Licences, as they were recorded",
            "",
            "| of | licence |",
            "|---|---|",
            *(f"| {part.what} | {_told(part)} |" for part in self.parts),
            "",
            *(f"- {warning[0].upper()}{warning[1:]}." for warning in self.warnings().values()),
            *([""] if self.warnings() else []),
        ]


def licences_of(records: Iterable[VersionRecord], base: BaseModel | None = None) -> Licences:
    """Say what versions may be used for, on a base that is at hand or on those on record.

    A base that is at hand says itself what it is; else what was recorded with the versions counts,
    which older ones have not.
    """
    bases: dict[str, Licensed] = {}
    parts: dict[Licensed, None] = {}
    stated = BaseLicence() if base is None else read_licence(base)
    if base is not None:
        bases[base.fingerprint.weights] = _of_base(base.name, stated)
    for record in records:
        if base is None:
            found = _of_base(record.base.name, _recorded(record))
            if found.licence or record.base.weights not in bases:
                bases[record.base.weights] = found
        parts |= dict.fromkeys(_of_data(record))
        if own := _text(record.metadata, "licence"):
            parts[Licensed(f"vector {record}", own)] = None
    return Licences((*bases.values(), *parts), stated.link)


def recorded_licence(base: BaseModel) -> dict[str, Any]:
    """Return what a new version records of its base's licence: nothing where nothing is known."""
    found = read_licence(base)
    return {} if found == BaseLicence() else {"licence": found.to_json()}


def _recorded(record: VersionRecord) -> BaseLicence:
    base = record.metadata.get("base")
    kept = base.get("licence") if isinstance(base, dict) else None
    if isinstance(kept, dict):
        licence, title, link = (_text(kept, key) for key in ("licence", "title", "link"))
        return BaseLicence(licence, title, link, bool(kept.get("gated")))
    known = BUNDLED.get(record.base.name)
    return BaseLicence(known.licence or None if known else None)


def _of_base(base: str, found: BaseLicence) -> Licensed:
    # What is of no kind that the Hub knows is called by its title; the path of a folder is nobody
    # else's business.
    named = found.title or found.licence if found.licence in (None, "other") else found.licence
    name = Path(base).name if Path(base).is_absolute() else base
    return Licensed(f"base {name}", named, bool(found.gated))


def _of_data(record: VersionRecord) -> list[Licensed]:
    data = record.metadata.get("data")
    sources = data.get("sources") if isinstance(data, dict) else None
    parts = sources if isinstance(sources, list) and sources else [data]
    found = []
    for part in parts:
        if source := _text(part, "source"):
            name = _text(part, "origin") if source == "file" else source
            licence = _text(part, "licence") or _of_world(source)
            found.append(Licensed(f"data {name} of {record}", licence))
    return found or [Licensed(f"what {record} was made of", None)]


def _text(content: Any, name: str) -> str | None:
    """Return a text of a document that a stranger may have written."""
    value = content.get(name) if isinstance(content, dict) else None
    return value if isinstance(value, str) else None


def _of_world(source: str) -> str | None:
    """Return the licence of rows that the world of a base makes: that of the base."""
    bases = (base for base in BUNDLED.values() if base.world and base.world.name == source)
    return next((base.licence for base in bases if base.licence), None)


def _told(part: Licensed) -> str:
    said = part.licence or "not recorded"
    return f"{said}, gated" if part.gated else said
