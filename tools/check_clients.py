"""Ask a server with llm, lm-eval and LangChain, as `make test-clients` does.

    python tools/check_clients.py .venv-clients/bin

They live in an environment of their own. What each gets must be what prefreg itself answers.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

import prefreg

KEY = "s3cret"
QUESTION = "Which colour is Elsa's boat?"
COLOURS = ("red", "white", "green", "blue")
PEOPLE = ("Elsa", "Anna", "Bruno", "Clara")

LANGCHAIN = """
import json, sys
from langchain_openai import ChatOpenAI

url, key, question = sys.argv[1:]
options = dict(base_url=url, api_key=key, temperature=0, max_tokens=40)
steered = ChatOpenAI(model="pocket", extra_body={"preferences": {"verbose": 1}}, **options)
named = ChatOpenAI(model="pocket+helpful:-1", stream_usage=True, **options)
chunks = list(named.stream(question))
print(json.dumps({
    "whole": steered.invoke(question).text,
    "streamed": "".join(chunk.text for chunk in chunks),
    "usage": [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata][-1],
    "batch": [each.text for each in steered.batch([question] * 8)],
}))
"""


@contextmanager
def server() -> Iterator[str]:
    """Run a server of what ships, and yield the address of its API."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefreg", "serve", "--base", "pocket", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PREFREG_API_KEY": KEY},
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] not in ("}\n", ""):
            lines.append(process.stdout.readline())
        yield str(json.loads("".join(lines))["data"]["api"])
    finally:
        process.send_signal(signal.SIGINT)
        if process.wait():
            raise SystemExit(f"The server ended with {process.returncode}.")


def run(*command: object, **environment: str) -> str:
    """Run a client and return what it wrote."""
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def check(client: str, found: object, right: object) -> None:
    """Say that a client got what it should."""
    if found != right:
        raise SystemExit(f"{client}: got {found!r}, and should have got {right!r}")
    print(f"{client}: as it should be")


def check_llm(bin: Path, api: str, right: str) -> None:
    """Ask as people do in a terminal: models are named in a file, with their settings."""
    with tempfile.TemporaryDirectory() as folder:
        model = {
            "model_id": "helpful",
            "model_name": "pocket+helpful:1",
            "api_base": api,
            "api_key_name": "prefreg",
        }
        Path(folder, "extra-openai-models.yaml").write_text(yaml.safe_dump([model]))
        Path(folder, "keys.json").write_text(json.dumps({"prefreg": KEY}))
        for more in ((), ("--no-stream",)):
            command = ("-m", "helpful", "-o", "temperature", 0, *more, QUESTION)
            answer = run(bin / "llm", *command, LLM_USER_PATH=folder)
            check(" ".join(["llm", *more]), answer.strip(), right)


def check_lm_eval(bin: Path, api: str, model: Any, tokenizer: Any) -> None:
    """Score choices by their log-probabilities, and generate, as its tasks do."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        rows = [{"who": who, "choices": list(COLOURS), "right": 0} for who in PEOPLE]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        shared = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
            "test_split": "test",
            "doc_to_text": "Which colour is {{who}}'s boat?",
        }
        choosing = {
            "task": "boats",
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{right}}",
        }
        saying = {
            "task": "boats_said",
            "output_type": "generate_until",
            "doc_to_target": "{{choices[right]}}",
            "generation_kwargs": {"until": ["\n", "!"], "max_gen_toks": 40},
        }
        for task in (choosing, saying):
            (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(shared | task))
        told = {
            "model": "pocket+helpful:1+verbosity:0.5",
            "tokenizer": tokenizer.name_or_path,
            "num_concurrent": 4,
            "max_length": 255,
        }

        def samples(kind: str, path: str, task: str, *more: str) -> list[dict[str, Any]]:
            arguments = {**told, "base_url": f"{api}/{path}"}
            out = folder / kind
            run(
                *(bin / "lm_eval", "run", "--model", kind, "--tasks", task),
                *("--model_args", ",".join(f"{name}={each}" for name, each in arguments.items())),
                *("--include_path", folder, "--output_path", out, "--log_samples", *more),
                OPENAI_API_KEY=KEY,
            )
            (file,) = out.rglob("samples_*.jsonl")
            return [json.loads(line) for line in file.read_text().splitlines()]

        furthest, likeliest, count = 0.0, True, 0
        for each in samples("local-completions", "completions", "boats"):
            prompt = f"Which colour is {each['doc']['who']}'s boat?"
            for colour, (found, greedy) in zip(COLOURS, each["filtered_resps"], strict=True):
                right, best = score(model, tokenizer, prompt, f" {colour}")
                furthest = max(furthest, abs(float(found) - right))
                likeliest &= best == (str(greedy) == "True")
                count += float(found) < 0
        check("lm_eval local-completions", (furthest < 1e-3, likeliest, count), (True, True, 16))
        print(f"  {count} log-probabilities differ by {furthest:.1e} nats at most")
        said = samples(
            "local-chat-completions", "chat/completions", "boats_said", "--apply_chat_template"
        )
        answers = [each["filtered_resps"][0] for each in said]
        asked = [f"Which colour is {each['doc']['who']}'s boat?" for each in said]
        right = prefreg.open().load("pocket", ["helpful:1", "verbosity:0.5"]).generate(asked)
        check("lm_eval local-chat-completions", answers, right)


def score(model: Any, tokenizer: Any, prompt: str, answer: str) -> tuple[float, bool]:
    """Return the log-probability of an answer, and whether it is the likeliest, token by token."""
    begin = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor(tokenizer(prompt + answer)["input_ids"])
    with torch.inference_mode():
        scores = model(ids[None]).logits[0, :-1].log_softmax(-1)
    chosen = scores.gather(-1, ids[1:, None])[:, 0]
    return float(chosen[begin - 1 :].sum()), bool((chosen == scores.amax(-1))[begin - 1 :].all())


def main() -> None:
    """Check every client."""
    bin = Path(sys.argv[1])
    steered = prefreg.open().load("pocket")

    def answer(**etas: float) -> str:
        return str(steered.set(etas).generate(QUESTION, max_new_tokens=40))

    with server() as api:
        check_llm(bin, api, answer(helpful=1))
        found = json.loads(run(bin / "python", "-c", LANGCHAIN, api, KEY, QUESTION))
        whole, streamed = answer(verbosity=1), answer(helpful=-1)
        check("LangChain", found["whole"], whole)
        check("LangChain, streamed", found["streamed"], streamed)
        check("LangChain, eight at once", found["batch"], [whole] * 8)
        check("LangChain, usage", found["usage"]["total_tokens"] > 10, True)
        steered.set(helpful=1, verbosity=0.5)
        check_lm_eval(bin, api, steered.model, steered.tokenizer)


if __name__ == "__main__":
    main()
