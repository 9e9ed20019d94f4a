"""The base as sources ask it: batches of answers, each kept in the cache."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.axis import BaseAnswer, Text, merge_options
from prefreg.checkpoints import BaseModel
from prefreg.config import cache_folder
from prefreg.data.templates import DAY, check_options
from prefreg.errors import Interrupted
from prefreg.files import hash_bytes, write_whole
from prefreg.json_values import parse_json
from prefreg.models.generation import sample
from prefreg.models.loading import load_model, load_tokenizer, on_gpu, quiet
from prefreg.models.sampling import Sampling
from prefreg.progress import Progress, steps_of

FORMAT = 1
"""Raised when answering changes, so that nothing older is taken for new."""
BATCH = 32
"""Answers that are made at once, and kept at once: of whole groups, as many as fit."""


class AnsweringBase:
    """A base that is found, loaded and asked only for answers that the cache has not.

    With `few` only one batch is made, for a preview.
    """

    def __init__(
        self,
        find: Callable[[], BaseModel],
        *,
        options: Mapping[str, Any] | None = None,
        few: bool = False,
        progress: Progress | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Keep how the base is found; `options` is what its chat template is told of all."""
        # With the day among them, no answer would be found again tomorrow.
        self._options = {key: told for key, told in (options or {}).items() if key != DAY}
        self.few = few
        self.made = 0
        """Answers that were not in the cache."""
        self._find = find
        self._progress = progress
        self._tell = tell
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    @cached_property
    def base(self) -> BaseModel:
        """Find the base."""
        return self._find()

    @property
    def name(self) -> str:
        """Return its name, without the way to a folder."""
        name = self.base.name
        return Path(name).name if Path(name).is_absolute() else name

    @property
    def has_template(self) -> bool:
        """Whether it has a chat template."""
        return self.base.fingerprint.template is not None

    def tell(self, text: str) -> None:
        """Tell the user something."""
        if self._tell is not None:
            self._tell(text)

    def release(self) -> None:
        """Let go of the model."""
        self._loaded = None

    def answers(
        self,
        groups: Sequence[Sequence[Text]],
        *,
        told: Sequence[tuple[str, str]] | None = None,
        max_new_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[list[BaseAnswer]]:
        """Answer every prompt of each group once; yield the answers of a group at a time.

        The answers of a batch depend on the batch, and a batch on its place in the list.

        Raises:
            UsageError: The sampling is out of measure.
            BaseModelError: A prompt does not fit the context of the base.
            Interrupted: Ctrl-C when some batches were made and kept.
        """
        sampling = Sampling(max_new_tokens, temperature, top_p, seed)
        told = told or [("", "")] * len(groups)
        total = sum(map(len, groups))
        done = 0
        report = steps_of(self._progress, "answers")
        if report is not None:
            report(0, total)  # the first batch takes its time
        for start, stop in _batches(list(map(len, groups))):
            asked = [
                (prompt, more if isinstance(prompt, str) else self._tell_template(more))
                for group, more in zip(groups[start:stop], told[start:stop], strict=True)
                for prompt in group
            ]
            try:
                found = self._take(asked, sampling)
                if found is None:
                    return
                done += len(found)
                if report is not None:
                    report(done, total)
            except KeyboardInterrupt:
                if not self.made:
                    raise
                raise Interrupted(
                    f"Interrupted. {done} of {total} answers are kept: the same command goes on "
                    "from there."
                ) from None
            rest = iter(found)
            for group in groups[start:stop]:
                yield [next(rest) for _ in group]

    def _tell_template(self, told: tuple[str, str]) -> tuple[str, str]:
        return told[0], merge_options(self._options, told[1])

    def _take(
        self, asked: Sequence[tuple[Text, tuple[str, str]]], sampling: Sampling
    ) -> list[BaseAnswer] | None:
        """Take the answers of a batch from the cache or the model; None if no more are made."""
        found = self.base.fingerprint
        identity = [found.weights, found.tokenizer, found.template, found.configuration]
        key = hash_bytes(json.dumps([FORMAT, *identity, asdict(sampling), asked]).encode())
        file = cache_folder() / "answers" / key[:2] / f"{key}.json"
        kept = _recall(file, len(asked))
        if kept is None:
            if self.few and self.made:
                return None
            # Each batch draws from its own seed, so that it needs none of those before it.
            kept = self._answer(asked, sampling, seed=int(key[:15], 16))
            self.made += len(kept)
            _remember(file, kept)
        return kept

    def _answer(
        self, asked: Sequence[tuple[Text, tuple[str, str]]], sampling: Sampling, *, seed: int
    ) -> list[BaseAnswer]:
        if self._loaded is None:
            with quiet():
                tokenizer = load_tokenizer(self.base)
                check_options(tokenizer, self._options)
                model = on_gpu(load_model(self.base, "auto"))
            self._loaded = model, tokenizer
        model, tokenizer = self._loaded
        found = sample(
            model,
            tokenizer,
            [prompt for prompt, _ in asked],
            Sampling(sampling.max_new_tokens, sampling.temperature, sampling.top_p, seed),
            told=[more for _, more in asked],
            batch_size=len(asked),
        )
        return [BaseAnswer(each.text, each.ended) for each in found]


def _batches(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield where the batches of groups of these sizes start and stop."""
    start = count = 0
    for place, size in enumerate(sizes):
        if count and count + size > BATCH:
            yield start, place
            start, count = place, 0
        count += size
    if count:
        yield start, len(sizes)


def _recall(file: Path, count: int) -> list[BaseAnswer] | None:
    """Read a batch; None where there is none, or a damaged file."""
    try:
        kept = parse_json(file.read_bytes())
        answers = [BaseAnswer(str(text), bool(ended)) for text, ended in kept["answers"]]
        sound = kept["sha256"] == _checksum(answers) and len(answers) == count
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answers if sound else None


def _remember(file: Path, answers: Sequence[BaseAnswer]) -> None:
    with suppress(OSError):  # a cache that cannot be written only costs time
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"answers": answers, "sha256": _checksum(answers)}
        write_whole(file, json.dumps(content))


def _checksum(answers: Sequence[BaseAnswer]) -> str:
    return hash_bytes(json.dumps(answers).encode())
