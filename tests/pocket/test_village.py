"""The village stays what the bundled model and its vectors were trained on, byte for byte.

Whoever means to change it trains both anew and writes the new digests here.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from prefreg import pocket

BUILDER = Path(__file__).parents[2] / "tools" / "pocket"
# Of seeds 0, 1 and 7 for rows, and of seed 2 for prompts.
ROWS = {
    "helpful": ("5f23660e4db90be8", "7773c7bc8a121302", "3db77e939086f8aa"),
    "harmless": ("9a0d4f96b8fcd5e0", "dbbab7b90edfec17", "f66671c262975b55"),
    "verbosity": ("2aa090a2106ec9c0", "f2292acdcbe2308c", "4427d621dfc50cde"),
    "honesty": ("df30346f029214f4", "ebfe3300b11c63e2", "65d051071140bb12"),
    "politeness": ("feb8c69cbb52ba13", "a4026ecfdd42121b", "026e891fa11e3548"),
    "directness": ("72b909a339b6b0b3", "4ce5e46b5e254efb", "de09a22ef989a299"),
}
PROMPTS = {
    "benign": ("6ddedaf835144be4", "c4bef40cc44951b0", "06b1155a31f4c0b1"),
    "howto": ("29f2cfae62b7c718", "eaa9a0b18dff213f", "e8e25e7fac93e530"),
    "unsafe": ("821a2314b727144e", "808693b675a6523c", "3ad93459821c1c33"),
    "unknown": ("18dcfc37cc557315", "6487ad3affd412a5", "184e065f9475b2d0"),
}
SPLITS = ("train", "dev", "test")


def digest(items: Iterable[object]) -> str:
    text = "\n".join(json.dumps(item, ensure_ascii=False) for item in items)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("axis", ROWS)
def test_the_rows_stay(axis: str) -> None:
    found = [
        digest(row for seed in (0, 1, 7) for row in pocket.rows(axis, split=split, seed=seed))
        for split in SPLITS
    ]
    assert tuple(found) == ROWS[axis]


@pytest.mark.parametrize("kind", PROMPTS)
def test_the_prompts_stay(kind: str) -> None:
    found = [digest(pocket.prompts(kind, split=split, limit=400, seed=2)) for split in SPLITS]
    assert tuple(found) == PROMPTS[kind]


def test_the_conversations_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BUILDER)
    from corpus import conversation

    draw = random.Random("corpus/0")
    assert digest(list(conversation(draw)) for _ in range(20000)) == "4a7600e3f307b4e9"
    monkeypatch.delitem(sys.modules, "corpus")


def test_the_words_and_their_order_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BUILDER)
    from vocabulary import make_tokenizer, world_text

    assert digest(world_text()) == "055e716a84c2e42b"
    ids = make_tokenizer().get_vocab()
    assert digest(sorted(ids.items(), key=lambda item: item[1])) == "4e73fdabae9a1253"
    monkeypatch.delitem(sys.modules, "vocabulary")
