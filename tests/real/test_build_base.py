import argparse
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "real"
MODULES = ("build_base", "texts", "vocabulary", "yardstick")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the tool, and forget its modules again: another tool has some of the same names."""
    monkeypatch.syspath_prepend(TOOL)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import build_base

    yield build_base
    for name in MODULES:
        sys.modules.pop(name, None)


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def pair(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    user, first = turns(question, chosen)
    return {"prompt": [user], "chosen": [first], "rejected": [turns("", rejected)[1]]}


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    asked = [{"messages": turns(f"What is {n} and {n}?", f"It is {2 * n}.")} for n in range(40)]
    write(folder / "sft" / "train.jsonl.gz", *asked, {"messages": turns("Who  IS it?", "Me.")})
    write(folder / "sft" / "dev.jsonl.gz", {"messages": turns("What is 50 and 50?", "It is 100.")})
    write(folder / "prefs" / "kind" / "train.jsonl.gz", *[pair("Hello?", "Hello!", "Go.")] * 2)
    write(folder / "prefs" / "kind" / "dev.jsonl.gz", pair("Who is it?", "A friend.", "Nobody."))
    return folder


def options(pack: Path, output: Path) -> argparse.Namespace:
    return argparse.Namespace(
        data=pack,
        output=output,
        size="3M",
        context=32,
        batch=2,
        seed=0,
        checkpoint=2,
        held_out=10,
        vocabulary=300,
    )


def test_both_answers_are_read_once_and_what_was_held_out_never(
    tool: ModuleType, pack: Path
) -> None:
    corpus = tool.read_corpus(pack)
    answers = [messages[-1]["content"] for messages in corpus.text]
    assert answers == [*(f"It is {2 * n}." for n in range(40)), "Hello!", "Go."]
    assert corpus.excluded == 1  # "Who  IS it?" is asked in a dev file
    assert len(corpus.chat) == 40
    assert {name: len(several) for name, several in corpus.held_out.items()} == {
        "sft": 1,
        "kind": 2,
    }


def test_a_document_is_what_the_chat_template_makes_of_it(tool: ModuleType, pack: Path) -> None:
    corpus = tool.read_corpus(pack)
    tokenizer = tool.make_tokenizer(corpus.text, size=300, context=32)
    messages = [{"role": "system", "content": "Be brief."}, *turns("Is é 12?", "No: 13\n!")]
    ids, answer = tool.encode(tokenizer, [messages])[0]
    assert ids == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    said = tokenizer.decode([token for token, mark in zip(ids, answer, strict=True) if mark])
    assert said == "No: 13\n!</s>"


def test_rows_are_full_and_only_answers_are_learnt_where_that_is_asked(tool: ModuleType) -> None:
    documents = [([1, 2, 3], [False, False, True]), ([4, 5], [False, True])]
    ids, labels = tool.pack(documents, length=2, answers_only=True)
    assert ids.tolist() == [[1, 2], [3, 4]]
    assert labels.tolist() == [[-100, -100], [3, -100]]
    assert torch.equal(*tool.pack(documents, length=5, answers_only=False))


def test_the_yardstick_gives_probabilities(tool: ModuleType) -> None:
    counts = tool.Ngrams([[0, 1, 2, 1, 2], [0, 2, 2]], 4)
    for context in ((), (1,), (2,), (0, 1), (2, 1), (3, 3)):
        total = sum(counts.probability((*context, token)) for token in range(4))
        assert total == pytest.approx(1)
    # Of 8 tokens, 4 are a 2: (4 + 1)/(8 + 4). After 1 comes 2 twice: (2 − .75)/2 + .375·5/12.
    assert counts.probability((2,)) == pytest.approx(5 / 12)
    assert counts.probability((1, 2)) == pytest.approx(0.625 + 0.375 * 5 / 12)


def test_a_run_that_was_cut_short_ends_as_one_that_was_not(
    tool: ModuleType, pack: Path, tmp_path: Path
) -> None:
    class Cut(list[Any]):
        def __getitem__(self, step: Any) -> Any:
            if step == 3:
                raise KeyboardInterrupt
            return super().__getitem__(step)

    corpus = tool.read_corpus(pack)
    tokenizer = tool.make_tokenizer(corpus.text, size=300, context=32)
    documents = tool.encode(tokenizer, corpus.text)

    def run(name: str, kind: type[list[Any]]) -> Any:
        torch.manual_seed(0)
        chosen = options(pack, tmp_path / name)
        tool.partial(chosen).mkdir(exist_ok=True)
        model = tool.make_model(tokenizer, chosen)
        tool.train(model, kind(tool.stage_rows(documents, chosen, steps=5, chat=False)), chosen)
        return model.state_dict()

    whole = run("whole", list)
    with pytest.raises(KeyboardInterrupt):
        run("cut", Cut)
    resumed = run("cut", list)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_command_leaves_a_base_with_its_report(
    tool: ModuleType, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "base"
    command = ["--data", pack, "--output", output, "--size", "3M", "--vocabulary", 300]
    command += ["--context", 32, "--batch", 2, "--text-steps", 2, "--chat-steps", 1]
    monkeypatch.setattr(sys, "argv", ["build_base.py", *map(str, command)])
    threads = torch.get_num_threads()
    tool.main()
    torch.set_num_threads(threads)
    found = json.loads((output / "report.json").read_text())["perplexity"]
    assert 262 < found["uniform"] <= 300
    assert found["kind"]["3-gram"] > 1
    assert not (output / "checkpoint.pt").exists()
    with pytest.raises(SystemExit):
        tool.main()
