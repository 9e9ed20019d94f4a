"""From the pairs of an optimiser batch to what trl's loss is computed on, part by part."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from prefreg.data.tokens import TokenPair
from prefreg.scoring.rows import lay_out, longest_answered, row_length
from prefreg.training.micro_batches import sorted_parts, trl_parts
from prefreg.training.shortcuts import Shortcuts

Example = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PartCollator:
    """Cut the pairs of a batch into parts, and write each as `Rows` or as trl does.

    A part has the keys of trl's batch and its `weight`, its share of the loss.
    """

    plain: DataCollatorForPreference
    size: int
    shortcuts: Shortcuts

    def __call__(self, examples: Sequence[Example]) -> dict[str, list[dict[str, Any]]]:
        """Return the parts of a batch."""
        cut: Iterable[tuple[Sequence[int], float]] = trl_parts(len(examples), self.size)
        if self.shortcuts.sorted_parts is None:
            cut = self._sorted([_pair(example) for example in examples])
        write = self.plain if self.shortcuts.shared_prompt else write_rows
        return {"parts": [write([examples[i] for i in part]) | {"weight": w} for part, w in cut]}

    def _sorted(self, pairs: Sequence[TokenPair]) -> Iterable[tuple[Sequence[int], float]]:
        """Cut pairs into sorted parts, none of more tokens than trl's largest part of them."""
        both = [2 * longest_answered(pair) for pair in pairs]
        lengths = both if self.shortcuts.shared_prompt else [row_length(pair) for pair in pairs]
        tokens = max(
            len(part) * max(both[i] for i in part) for part, _ in trl_parts(len(pairs), self.size)
        )
        return sorted_parts(lengths, self.size, tokens=tokens)


def write_rows(examples: Sequence[Example]) -> dict[str, Any]:
    """Write pairs as rows beside a batch of trl's form in which prompts are one token long.

    From that batch trl takes only which tokens are an answer's.
    """
    pairs = [_pair(example) for example in examples]
    answers = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    longest = 1 + max(map(len, answers))
    ids = torch.zeros(len(answers), longest, dtype=torch.long)
    answered = torch.zeros_like(ids)
    for row, answer in enumerate(answers):
        ids[row, 1 : 1 + len(answer)] = torch.tensor(answer)
        answered[row, 1 : 1 + len(answer)] = 1
    attended = answered.clone()
    attended[:, 0] = 1
    return {
        "input_ids": ids,
        "attention_mask": attended,
        "completion_mask": answered,
        "ref_chosen_logps": torch.tensor([each["ref_chosen_logps"] for each in examples]),
        "ref_rejected_logps": torch.tensor([each["ref_rejected_logps"] for each in examples]),
        "rows": lay_out(pairs),
    }


def _pair(example: Example) -> TokenPair:
    return TokenPair(example["prompt_ids"], example["chosen_ids"], example["rejected_ids"])
