"""Fast batched sampling for measurements."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    limit: int = 128,
    batch: int = 400,
) -> list[str]:
    """Answer every prompt once at temperature 1."""
    torch.manual_seed(seed)
    model.eval()
    answers: list[str] = []
    for start in range(0, len(prompts), batch):
        rendered = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts[start : start + batch]
        ]
        inputs = tokenizer(
            rendered, return_tensors="pt", padding=True, padding_side="left",
            add_special_tokens=False, return_token_type_ids=False,
        )  # fmt: skip
        output = model.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=limit,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        tails = output[:, inputs["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(tails, skip_special_tokens=True)
    return answers
