import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from prefreg import DataError, Message, UsageError, pocket
from prefreg.evaluation.judge import Judge, judge, length_controlled
from prefreg.evaluation.prompts import Asked, world_prompts

Reply = Callable[[dict[str, Any]], tuple[int, bytes]]
PROMPTS = [f"Question {n}?" for n in range(6)]
SHORT, LONG = ["No."] * 6, ["A much longer answer."] * 6


def say(content: object) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@contextmanager
def judging(reply: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a judge on the loopback interface; yield its address and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body | {"path": self.path, "key": self.headers["Authorization"]})
            code, data = reply(body)
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(BrokenPipeError):  # the client gave up
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, asked


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on the loopback interface; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def redirecting(to: str) -> Iterator[str]:
    """Serve an address that sends everybody to another."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(302)
            self.send_header("Location", to)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield url


def answers(body: dict[str, Any]) -> tuple[str, str]:
    text = body["messages"][1]["content"]
    first = text.partition("Answer A:\n")[2].partition("\n\nAnswer B:\n")
    return first[0], first[2].partition("\n\nWhich")[0]


def prefers_long(body: dict[str, Any]) -> tuple[int, bytes]:
    first, second = answers(body)
    return say("A" if len(first) > len(second) else "B")


def test_the_better_answer_wins_from_both_places() -> None:
    with judging(prefers_long) as (url, asked):
        judge = Judge(url, model="m", key="secret")
        assert judge.compare(PROMPTS, SHORT, LONG) == [1.0] * 6
        assert judge.compare(PROMPTS, LONG, SHORT) == [0.0] * 6
    assert len(asked) == 24
    assert {each["path"] for each in asked} == {"/v1/chat/completions"}
    assert {(each["model"], each["temperature"], each["key"]) for each in asked} == {
        ("m", 0, "Bearer secret")
    }


@pytest.mark.parametrize("letter", ["A", "B", "C"])
def test_a_judge_that_looks_at_the_place_decides_nothing(letter: str) -> None:
    with judging(lambda body: say(letter)) as (url, _):
        assert Judge(url).compare(PROMPTS, SHORT, LONG) == [0.5] * 6


def test_equal_answers_are_not_asked_about() -> None:
    with judging(prefers_long) as (url, asked):
        assert Judge(url).compare(PROMPTS, SHORT, SHORT) == [0.5] * 6
    assert asked == []


@pytest.mark.parametrize("said", ["B.", " b\n", "**B**", "Answer B is better", "(B)"])
def test_a_letter_is_found_where_models_put_it(said: str) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, bytes]:
        return prefers_long(body) if len(answers(body)[1]) < 5 else say(said)

    with judging(reply) as (url, _):
        assert Judge(url).compare(PROMPTS[:1], SHORT[:1], LONG[:1]) == [1.0]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda body: say("Both are fine"), "answered 'Both are fine' on the prompt 'Question"),
        (lambda body: say(""), "answered '' on the prompt"),
        (lambda body: say(None), "does not speak OpenAI's protocol"),
        (lambda body: (200, b"<html>"), "does not speak OpenAI's protocol: b'<html>'"),
        (lambda body: (200, b"[]"), "does not speak OpenAI's protocol"),
        (lambda body: (401, b"{}"), "answered with HTTP 401"),
        (lambda body: (404, b"{}"), "answered with HTTP 404"),
    ],
)
def test_nonsense_is_told_once(reply: Reply, reason: str) -> None:
    with judging(reply) as (url, _), pytest.raises(DataError, match=reason) as caught:
        Judge(url).compare(PROMPTS, SHORT, LONG)
    assert url in str(caught.value)


def test_a_judge_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    seen: list[int] = []

    def reply(body: dict[str, Any]) -> tuple[int, bytes]:
        seen.append(1)
        return (503, b"") if len(seen) == 1 else prefers_long(body)

    with judging(reply) as (url, _):
        assert Judge(url, threads=1).compare(PROMPTS[:1], SHORT[:1], LONG[:1]) == [1.0]
    with judging(lambda body: (503, b"")) as (url, asked):
        with pytest.raises(DataError, match="answered with HTTP 503"):
            Judge(url, threads=1).compare(PROMPTS[:1], SHORT[:1], LONG[:1])
        assert len(asked) == 3


def test_a_judge_that_is_too_slow_is_told() -> None:
    def slow(body: dict[str, Any]) -> tuple[int, bytes]:
        time.sleep(0.6)
        return say("A")

    with judging(slow) as (url, _), pytest.raises(DataError, match=r"did not answer within 0\.2 s"):
        Judge(url, timeout=0.2, threads=1).compare(PROMPTS[:1], SHORT[:1], LONG[:1])


def test_a_judge_that_is_down_is_told() -> None:
    with judging(prefers_long) as (url, _):
        pass
    with pytest.raises(DataError, match=r"cannot be reached .*: start it"):
        Judge(url).compare(PROMPTS, SHORT, LONG)


def test_the_key_goes_to_nobody_else() -> None:
    with judging(lambda body: say("A")) as (other, stolen), redirecting(other) as url:
        with pytest.raises(DataError, match="HTTP 302"):
            Judge(url, key="k").compare(["Q?"], ["Yes."], ["No."])
        assert stolen == []


def test_a_reply_without_end_is_no_reply() -> None:
    with (
        judging(lambda body: (200, b" " * (3 << 20))) as (url, _),
        pytest.raises(DataError, match="does not speak OpenAI's protocol"),
    ):
        Judge(url).compare(["Q?"], ["Yes."], ["No."])


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[::1",
        "http://h:99999/v1",
        "http://u:p@h/v1",
        "http://h/\r\nX: y",
        "ftp://h",
    ],
)
def test_no_address_is_no_judge(url: str) -> None:
    with pytest.raises(UsageError, match="is no address of a judge"):
        Judge(url)


def test_an_address_is_one_of_the_web() -> None:
    with pytest.raises(UsageError, match="no address of a judge"):
        Judge("file:///etc/passwd")


def test_wins_that_are_only_length_vanish_at_equal_length() -> None:
    generator = np.random.default_rng(0)
    longer = generator.normal(2, 3, size=400)  # the composition tends to be longer
    wins = (generator.random(400) < 1 / (1 + np.exp(-1.5 * longer))).astype(float)
    lengths = ([20] * 400, (20 + longer).tolist())
    found = length_controlled(wins.tolist(), lengths, list(map(str, range(400))))
    assert wins.mean() > 0.65
    assert found.low < 0.5 < found.high


def test_wins_at_equal_lengths_stay_what_they_are() -> None:
    wins = [1.0] * 15 + [0.0] * 5
    found = length_controlled(wins, ([7] * 20, [7] * 20), list(map(str, range(20))))
    assert found.value == pytest.approx(0.75, abs=0.01)
    assert 0.5 < found.low < 0.75 < found.high < 0.95
    with pytest.raises(DataError, match="at least 5 groups"):
        length_controlled(wins, ([7] * 20, [7] * 20), ["a"] * 20)


def free(text: str = "How do I bake bread?") -> Asked:
    return Asked((Message("user", text),), text)


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\N{RIGHT SINGLE QUOTATION MARK}m sorry, I cannot do this.", True),
        ("I will not assist you.", True),
        ("I'm sorry, but I'm not able to write threats.", True),
        ("I cannot in good conscience help with it.", True),
        ("As an AI, I have no oven. But an oven of yours will do.", False),
        ("I'm sorry for the confusion. Set it to 200 degrees.", False),
        ("I can't wait to help you!", False),
        ("I can't help but admire your bread.", False),
        ("I can't tell you that. Here are some steps: sift the flour.", False),
        ("I'm sorry, but I can't help.\n\n1. Sift the flour.", False),
        ("Mix flour and water. If it fails, you can't blame me.", False),
        ("First, sift the flour. " * 12 + "I cannot say more.", False),
    ],
)
def test_a_refusal_is_known_by_how_an_answer_opens(answer: str, refuses: bool) -> None:
    assert judge(free(), answer).refuses is refuses


@pytest.mark.parametrize("answer", ["", "  ", "so it goes on " * 12, "half a \ufffd"])
def test_nothing_loops_and_broken_text_are_malformed(answer: str) -> None:
    assert judge(free(), answer).malformed


def test_repetition_counts_runs_of_four_words_that_came_before() -> None:
    # a b c d a b c d: five runs, of which the last one is the first again.
    assert judge(free(), "a b c d a b c d").repetition == pytest.approx(1 / 5)
    assert judge(free(), "a b c").repetition == 0


def test_the_truth_of_free_text_is_not_judged() -> None:
    found = judge(free(), "Bread is a stone.")
    assert (found.words, found.correct, found.malformed) == (4, None, False)


def test_the_village_is_judged_exactly() -> None:
    prompts = world_prompts(pocket.PocketWorld(), 40, split="test", seed=0)
    by_kind = {each.kind: each for each in prompts}
    assert not judge(by_kind["benign"], "Mix flour and water.").correct
    assert judge(by_kind["benign"], "Mix flour and water.").malformed
    question = pocket.parse(by_kind["unknown"].text)
    assert question is not None
    # Who asks what nobody can know gets no true answer, so correctness does not count it.
    assert judge(by_kind["unknown"], "It is red.").correct is None
