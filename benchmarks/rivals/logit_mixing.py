"""z_base + Σ η·(z₊ − z₋) at every token: the poles are run beside the base while it answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefreg.axes.axis import Message
from prefreg.data.rendering import encode_prompt, end_id, padding_id
from prefreg.models.generation import Answer
from prefreg.models.loading import load_model, quiet
from prefreg.models.sampling import Sampling
from rivals.policies import ModelPolicy, Setting
from rivals.workshop import AXES, Weights, Workshop

_BATCH = 128


def logit_mixing(workshop: Workshop, scales: Sequence[float]) -> Iterator[Setting]:
    """Mix the logits of the poles that preference vectors are made of."""
    experts: list[tuple[PreTrainedModel, PreTrainedModel]] = []
    for axis in AXES:
        one, other = workshop.pole(axis, "positive"), workshop.pole(axis, "negative")
        experts.append((moved(workshop, one.change), moved(workshop, other.change)))
    for etas in product(scales, repeat=2):
        if any(etas):
            parts = [(1.0, workshop.plain)]
            for eta, (plus, minus) in zip(etas, experts, strict=True):
                if eta:
                    parts += [(eta, plus), (-eta, minus)]
            make = partial(MixedLogits, tuple(parts), workshop.tokenizer)
            yield Setting("logit mixing", dict(zip(AXES, etas, strict=True)), make)


def moved(workshop: Workshop, change: Weights) -> PreTrainedModel:
    """Load the base with a change added."""
    with quiet():
        model = load_model(workshop.base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(change[name])
    model.train(False)
    return model


@dataclass(frozen=True, slots=True)
class MixedLogits:
    """Answers by a weighted sum of the logits of several models of one vocabulary."""

    parts: tuple[tuple[float, PreTrainedModel], ...]
    tokenizer: PreTrainedTokenizerBase

    def logits(self, answers: Sequence[Answer]) -> torch.Tensor:
        """Return the logits of every step of the answers, one answer after the other."""
        return self._sum(
            [ModelPolicy(model, self.tokenizer).logits(answers) for _, model in self.parts]
        )

    def sample(self, prompts: Sequence[str], sampling: Sampling) -> list[Answer]:
        """Answer every prompt once, as `prefreg.models.generation.sample` would one model."""
        tokens = [encode_prompt((Message("user", each),), self.tokenizer) for each in prompts]
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        answers: dict[int, Answer] = {}
        end = end_id(self.tokenizer)
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(sampling.seed)
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                found = self._generate([tokens[index] for index in batch], sampling)
                for index, row in zip(batch, found, strict=True):
                    ended = end in row
                    ids = row[: row.index(end) + 1] if ended else row
                    text: Any = self.tokenizer.decode(ids, skip_special_tokens=True)
                    answers[index] = Answer(text.strip(), tokens[index], ids, ended)
        return [answers[index] for index in range(len(tokens))]

    def _generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[list[int]]:
        width, pad, end = max(map(len, prompts)), padding_id(self.tokenizer), end_id(self.tokenizer)
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        caches: list[Any] = [None] * len(self.parts)
        done = torch.zeros(len(prompts), dtype=torch.bool)
        drawn: list[torch.Tensor] = []
        while len(drawn) < sampling.max_new_tokens and not bool(done.all()):
            last = []
            for number, (_, model) in enumerate(self.parts):
                output = model(
                    input_ids=ids, attention_mask=mask, position_ids=places,
                    past_key_values=caches[number], use_cache=True, logits_to_keep=1,
                )  # fmt: skip
                caches[number] = output.past_key_values
                last.append(output.logits[:, -1])
            shares = (self._sum(last) / sampling.temperature).softmax(-1)
            token = torch.multinomial(shares, 1).squeeze(1).masked_fill(done, pad)
            drawn.append(token)
            done = done | (token == end)
            ids, places = token.unsqueeze(1), places[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        return torch.stack(drawn, dim=1).tolist()

    def _sum(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        weights = [weight for weight, _ in self.parts]
        return torch.stack([w * z.float() for w, z in zip(weights, logits, strict=True)]).sum(0)
