"""The licence of a base model, as its own card or whoever bundles it states it."""

from dataclasses import dataclass

import yaml

from prefreg.checkpoints.bases import BaseModel
from prefreg.errors import BaseModelError
from prefreg.json_values import JsonFields
from prefreg.plain_yaml import load_yaml
from prefreg.values import read_small

CARD_FILE = "README.md"
_MOST_CARD = 1 << 18
"""Bytes of a card that are read: the longest on the Hub have some 100 kB."""
_ASKS = "extra_gated_"
"""Begins what a card on the Hub asks of those who want access."""


@dataclass(frozen=True, slots=True)
class BaseLicence(JsonFields):
    """What is said of the use of a base; nothing of it is known where nobody said."""

    licence: str | None = None
    """An identifier of the Hub or of SPDX; `other` has a title."""
    title: str | None = None
    link: str | None = None
    gated: bool = False
    """Whether the Hub has its users accept the licence before they may download it."""


def read_licence(base: BaseModel) -> BaseLicence:
    """Return what a base's card says, else what is said of a base that is known by a name."""
    try:
        text = read_small(base.path / CARD_FILE, BaseModelError, most=_MOST_CARD).decode("utf-8")
        found = load_yaml(text.split("---")[1]) if text.startswith("---") else {}
    except (BaseModelError, ValueError, IndexError, yaml.YAMLError):
        found = {}  # without a card, or with one that cannot be read, nothing is known
    said = found if isinstance(found, dict) else {}
    fields = (said.get(key) for key in ("license", "license_name", "license_link"))
    licence, title, link = (each if isinstance(each, str) and each else None for each in fields)
    if licence is None and base.bundled is not None:
        licence = base.bundled.licence or None
    return BaseLicence(licence, title, link, any(str(key).startswith(_ASKS) for key in said))
