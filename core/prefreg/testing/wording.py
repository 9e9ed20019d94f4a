"""Say any text in the bundled model's words, so that ten steps on it can learn from any data.

The model knows a few hundred words; to it all others are one unknown word, and answers that
differ in nothing else are the same. So each word that it does not know stands for one that it
knows, always the same, chosen by hash. What tells chosen from rejected answers survives, what the
texts mean does not. Texts are cut to what fits.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prefreg.axes import PreferencePair, plain_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_WORDS = 24
ANSWER_WORDS = 40
_PUNCTUATION = ".,?!"
_SPACE = "▁"
"""What the tokens of words begin with."""


class PocketWording:
    """The words of the bundled model, and those that stand for others."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Read the vocabulary."""
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        words = (token.removeprefix(_SPACE) for token in vocabulary if token.startswith(_SPACE))
        self._words = sorted(word for word in words if word.isalpha())
        self._said: dict[str, str] = {}

    def rewrite(self, pair: PreferencePair) -> PreferencePair:
        """Say a pair in known words, as one question and two answers."""
        prompt = plain_text(pair.prompt).split()[-PROMPT_WORDS:]
        chosen = plain_text(pair.chosen).split()[:ANSWER_WORDS]
        rejected = plain_text(pair.rejected).split()[:ANSWER_WORDS]
        return PreferencePair.from_texts(
            prompt=self._say(prompt),
            chosen=self._say(chosen),
            rejected=self._say(rejected),
            group=pair.group,
        )

    def unknown_share(self, pairs: Iterable[PreferencePair]) -> float:
        """Return the share of the answers' words that the bundled model does not know."""
        words = [word for pair in pairs for text in _answers(pair) for word in text.split()]
        return sum(self._say_word(word) != word for word in words) / max(len(words), 1)

    def describe(self, pairs: Sequence[PreferencePair]) -> str:
        """Tell what rewriting does to these pairs; nothing where it leaves them as they are."""
        unknown = self.unknown_share(pairs)
        cut = sum(len(text.split()) > ANSWER_WORDS for pair in pairs for text in _answers(pair))
        said = f"; {unknown:.0%} of the words stood for ones that pocket does not know"
        told = said if unknown else ""
        return told + (f"; {cut} answers were cut to {ANSWER_WORDS} words" if cut else "")

    def _say(self, words: Iterable[str]) -> str:
        return " ".join(map(self._say_word, words))

    def _say_word(self, word: str) -> str:
        if word not in self._said:
            self._said[word] = self._find(word)
        return self._said[word]

    def _find(self, word: str) -> str:
        tokens = self._tokenizer.tokenize(word)
        if self._tokenizer.unk_token not in tokens:
            return word
        digest = hashlib.sha256(word.rstrip(_PUNCTUATION).encode()).digest()
        known = self._words[int.from_bytes(digest[:8]) % len(self._words)]
        return known + (word[-1] if word[-1] in _PUNCTUATION else "")


def _answers(pair: PreferencePair) -> tuple[str, str]:
    return plain_text(pair.chosen), plain_text(pair.rejected)
