"""What a YAML axis may say, how its rules label, and how its sources read their rows."""

import gzip
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest

import prefreg
from prefreg import (
    Axis,
    AxisError,
    DataError,
    LicensedSource,
    Message,
    PreferencePair,
    SourceRequest,
    SourceRows,
    axis_from_yaml,
)
from prefreg.axes.axis import plain_text
from prefreg.axes.yaml_axes import RULES, label_by, read_declaration

GOOD = """\
name: tone
summary: Warm wording.
aliases: [warm]
rule: higher-rating
min_gap: 1
columns:
  prompt: question
sources:
  - hub: org/Some_Set
    config: en
    split: test
    revision: v1
    weight: 3
    licence: CC-BY-NC-4.0
  - file: rows.jsonl
    weight: 1
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write tone.yaml with a file of rows beside it and read it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n")

    def call(content: str | bytes) -> Axis:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "tone.yaml").write_bytes(data)
        return prefreg.axis_from_yaml("tone.yaml")

    return call


def test_a_file_is_an_axis(write) -> None:
    axis = write(GOOD)
    assert (axis.name, axis.summary, axis.aliases) == ("tone", "Warm wording.", ("warm",))
    assert list(axis.sources) == ["some-set", "rows"]
    assert axis.default_data == ("some-set:3.0", "rows:1.0")
    hub = axis.sources["some-set"]
    assert isinstance(hub, LicensedSource)
    assert (hub.dataset, hub.licence) == ("org/Some_Set", "CC-BY-NC-4.0")
    assert axis.licence_of("rows") is None


def test_the_licence_at_the_top_is_that_of_every_source(write) -> None:
    axis = write("licence: MIT\n" + GOOD)
    assert axis.licences == ("CC-BY-NC-4.0", "MIT")
    assert axis.licence_of("rows") == "MIT"


def test_the_least_that_a_file_says(write) -> None:
    axis = write("name: a\nsummary: b\nsources:\n- file: rows.jsonl\n")
    assert axis.default_data == ()
    assert list(axis.sources) == ["rows"]


def test_a_byte_order_mark_is_no_part_of_the_text(write) -> None:
    assert write(b"\xef\xbb\xbf" + GOOD.encode()).name == "tone"


def test_text_and_hash_are_those_of_the_file(write, tmp_path: Path) -> None:
    write(GOOD)
    declaration = read_declaration(tmp_path / "tone.yaml")
    assert (declaration.file, declaration.text) == ("tone.yaml", GOOD)
    assert declaration.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()


CHANGED = [
    ("columns:", "colums:", 6, "unknown key 'colums'; did you mean 'columns'?"),
    ("columns:", "license: MIT\ncolumns:", 6, "unknown key 'license'; did you mean 'licence'?"),
    ("columns:", "xyzzy: 1\ncolumns:", 6, "unknown key 'xyzzy' (there are: name, summary"),
    ("    weight: 1", "    wight: 1", 16, "unknown key 'wight'; did you mean 'weight'?"),
    ("prompt: question", "promt: question", 7, "unknown key 'promt'; did you mean 'prompt'?"),
    ("prompt: question", "chosen: a", 7, "unknown key 'chosen' (there are: prompt, response_0"),
    ("prompt: question", "prompt: [a]", 7, "'prompt' must be a text or a number"),
    ("prompt: question", "prompt: 7", 7, "'prompt' must be a text: put 7 in quotes"),
    ("prompt: question", "prompt: yes", 7, "'prompt' must be a text: put yes in quotes"),
    ("prompt: question", "prompt: ''", 7, "'prompt' is empty"),
    ("prompt: question", "prompt:", 7, "'prompt' must be a text or a number"),
    ("name: tone", "name: Tone", 1, "'Tone' is no name"),
    ("name: tone", "nam: tone", 1, "unknown key 'nam'; did you mean 'name'?"),
    ("name: tone\n", "", 1, "key 'name' is missing"),
    ("summary: Warm wording.", "name: other", 2, "key 'name' stands on line 1 already"),
    ("[warm]", "warm", 3, "'aliases' is not a list"),
    ("[warm]", "[warm, warm]", 3, "the name 'warm' stands here twice"),
    ("[warm]", "[tone]", 3, "the name 'tone' stands here twice"),
    ("higher-rating", "higer-rating", 4, "unknown rule 'higer-rating'; did you mean 'higher-rati"),
    ("higher-rating", "best", 4, "unknown rule 'best' (there are: preference, higher-rating"),
    ("min_gap: 1", "min_gap: -1", 5, "'min_gap' must not be negative"),
    ("min_gap: 1", "min_gap: .nan", 5, "'min_gap' must not be negative"),
    ("min_gap: 1", "min_gap: two", 5, "'min_gap' must be a number, not 'two'"),
    ("rule: higher-rating", "rule: numbered", 5, "the rule 'numbered' knows no 'min_gap'"),
    ("    weight: 1", "    weight: 0", 16, "'weight' must be above zero"),
    ("    weight: 1", "    weight: true", 16, "'weight' must be a number, not True"),
    ("    weight: 1\n", "", 15, "give every source a 'weight', or none"),
    ("file: rows.jsonl", "file: none.jsonl", 15, "there is no file none.jsonl"),
    ("file: rows.jsonl", "file: rows.txt", 15, "'rows.txt' is no file of rows (they end in .jsonl"),
    (
        "columns:",
        "strings: turn\ncolumns:",
        6,
        "unknown strings 'turn'; did you mean 'turns'?",
    ),
    ("file: rows.jsonl", "name: rows", 15, "a source needs either 'hub' or 'file'"),
    (
        "file: rows.jsonl",
        "{file: rows.jsonl, hub: a/b}\n  - file: rows.jsonl",
        15,
        "either 'hub' or",
    ),
    (
        "file: rows.jsonl",
        "file: rows.jsonl\n    split: a",
        16,
        "'split' belongs to a source on the",
    ),
    ("hub: org/Some_Set", "hub: https://x.org/a", 9, "is no data set of the hub: write owner/name"),
    ("file: rows.jsonl", "file: rows.jsonl\n    name: some-set", 15, "a second source 'some-set'"),
    ("revision: v1", "revision: [2024]", 12, "'revision' must be a text or a number: put a te"),
    ("revision: v1", "revision: !!python/name:os.system x", 12, "the tag tag:yaml.org,2002:python"),
    ("revision: v1", "revision: !!int x", 12, "the tag tag:yaml.org,2002:int is not taken"),
    ("    weight: 1", "    where: {a: []}", 16, "an empty list lets no row through"),
    ("    weight: 1", "    where: [a]", 16, "'where' is not a mapping of key to value"),
    ("min_gap: 1", "min_gap: [1", 6, "not YAML: while parsing a flow sequence"),
    ("min_gap: 1", "min_gap: 1\n---\na: 1", 6, "not YAML: expected a single document"),
    ("min_gap: 1", "min_gap: 1\n\tb: 1", 6, "not YAML"),
    ("min_gap: 1", "min_gap: \x00", 5, "not YAML: a control character"),
    ("min_gap: 1", "min_gap: *other", 5, "not YAML: found undefined alias"),
    ("columns:", "<<: {a: 1}\ncolumns:", 6, "unknown key '<<'"),
    ("columns:", "[a, b]: 1\ncolumns:", 6, "unknown key"),
]


@pytest.mark.parametrize(("old", "new", "line", "words"), CHANGED)
def test_each_mistake_is_told_with_its_line(
    write, old: str, new: str, line: int, words: str
) -> None:
    assert old in GOOD
    with pytest.raises(AxisError) as caught:
        write(GOOD.replace(old, new, 1))
    message = str(caught.value)
    assert message.startswith(f"tone.yaml:{line}: "), message
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "tone.yaml is empty: an axis needs a name and sources."),
        (b"# only a comment\n", "tone.yaml is empty"),
        (b"[a, b]", "tone.yaml:1: 'the file' is not a mapping of key to value"),
        (b"tone", "tone.yaml:1: 'the file' is not a mapping of key to value"),
        (b"name: a\nsummary: W\xe4rme\n", "tone.yaml:2: not UTF-8"),
        (b"[" * 3000, "tone.yaml:1: not YAML: nested more than 100 levels deep"),
        (b"name: a\nsummary: b\nsources: []\n", "tone.yaml:3: 'sources' is an empty list"),
        (b"name: a\nsummary: b\nsources: {}\n", "tone.yaml:3: 'sources' is not a list"),
        (
            b"name: a\nsummary: b\nsources: &a [*a]\n",
            "tone.yaml:3: not YAML: an alias stands within what it",
        ),
    ],
)
def test_what_is_no_axis_at_all_is_told(write, content: bytes, words: str) -> None:
    with pytest.raises(AxisError) as caught:
        write(content)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(AxisError, match=r"There is no file .*none.yaml"):
        read_declaration(tmp_path / "none.yaml")
    with pytest.raises(AxisError, match="cannot be read"):
        read_declaration(tmp_path)


RATED = {"prompt": "q", "response_0": "a", "response_1": "b b", "place": "rows.jsonl:3"}


def label(rule: str, row: dict[str, Any], min_gap: float = 0.0) -> str | None:
    """Return the chosen and the rejected text."""
    pair = label_by(RULES[rule], min_gap)({**RATED, **row})
    return pair and f"{plain_text(pair.chosen)} > {plain_text(pair.rejected)}"


def test_a_preference_is_taken_as_it_is() -> None:
    assert label("preference", {"chosen": "x", "rejected": "y"}) == "x > y"


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (1, 2, "b b > a"),
        (2.5, 2, "a > b b"),
        ("10", "9", "a > b b"),
        (3, 3, None),
        (None, 3, None),
        ("N/A", 3, None),
    ],
)
def test_the_higher_rating_wins(first: object, second: object, found: str | None) -> None:
    assert label("higher-rating", {"rating_0": first, "rating_1": second}) == found


def test_a_smaller_gap_than_asked_for_is_a_tie() -> None:
    assert label("higher-rating", {"rating_0": 1, "rating_1": 2}, 2) is None
    assert label("higher-rating", {"rating_0": 1, "rating_1": 3}, 2) == "b b > a"
    assert label("longer", {}, 1) == "b b > a"
    assert label("longer", {}, 2) is None


@pytest.mark.parametrize(
    ("winner", "found"),
    [
        (0, "a > b b"),
        (1, "b b > a"),
        (1.0, "b b > a"),
        (True, "b b > a"),
        ("1", "b b > a"),
        (2, None),
        (10**400, None),
        (None, None),
    ],
)
def test_the_number_names_the_winner(winner: object, found: str | None) -> None:
    assert label("numbered", {"winner": winner}) == found


def test_more_words_win() -> None:
    assert label("longer", {}) == "b b > a"
    assert label("longer", {"response_0": "c c c"}) == "c c c > b b"
    assert label("longer", {"response_0": "c c"}) is None


@pytest.mark.parametrize(
    ("rule", "row", "words"),
    [
        ("higher-rating", {"rating_0": "good", "rating_1": 1}, "'rating_0' holds 'good', not a ra"),
        ("higher-rating", {"rating_0": [1], "rating_1": 1}, "not a rating"),
        ("higher-rating", {"rating_0": float("nan"), "rating_1": 1}, "not a rating"),
        ("higher-rating", {"rating_0": 10**400, "rating_1": 1}, "not a rating"),
        ("higher-rating", {"rating_0": "1e999", "rating_1": 1}, "not a rating"),
        ("numbered", {"winner": "A"}, "'winner' holds 'A', not the number of a response"),
        ("preference", {"chosen": "", "rejected": "y"}, "column 'chosen' is empty"),
        ("preference", {"chosen": 7, "rejected": "y"}, "neither a string nor a list of messages"),
        ("longer", {"prompt": " "}, "column 'prompt' is empty"),
    ],
)
def test_what_cannot_be_labelled_is_told_with_its_place(
    rule: str, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError) as caught:
        label(rule, row)
    assert str(caught.value).startswith("rows.jsonl:3: ")
    assert words in str(caught.value)


def test_strings_become_a_dialogue_and_messages_stay() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rule = label_by(RULES["longer"], 0)
    pair, other = rule(RATED), rule({**RATED, "prompt": turns, "group": 7})
    assert pair is not None
    assert other is not None
    assert pair.prompt == (Message("user", "q"),)
    assert pair.chosen == (Message("assistant", "b b"),)
    assert other.prompt == (Message("system", "s"), Message("user", "u"))
    assert other.group == "7"


QUESTION = {"prompt": "q", "chosen": "x", "rejected": "y", "place": "rows.jsonl:3"}
TURNS = PreferencePair.from_texts(prompt="q", chosen="x", rejected="y")


def test_rows_of_the_preference_format_are_what_they_are_everywhere() -> None:
    assert label_by(RULES["preference"], 0)(QUESTION) == PreferencePair.from_row(QUESTION)
    assert label_by(RULES["preference"], 0)(QUESTION) == PreferencePair("q", "x", "y")
    assert label_by(RULES["preference"], 0, "turns")(QUESTION) == TURNS
    assert label_by(RULES["longer"], 0, "verbatim")(RATED) == PreferencePair("q", "b b", "a")


def test_strings_that_are_turns_need_a_prompt_and_whole_dialogues_do_not() -> None:
    rule = label_by(RULES["preference"], 0, "turns")
    with pytest.raises(DataError, match=r"rows.jsonl:3: column 'prompt' is missing"):
        rule({**QUESTION, "prompt": None})
    asked = {"role": "user", "content": "q"}
    whole = {
        name: [asked, {"role": "assistant", "content": QUESTION[name]}]
        for name in ("chosen", "rejected")
    }
    assert rule({**QUESTION, "prompt": None, **whole}) == TURNS
    assert rule({**QUESTION, **whole}) == TURNS


def test_a_question_repeated_by_both_responses_is_taken_away() -> None:
    row = {**RATED, "prompt": "is it?", "response_0": "is it? no", "response_1": "is it? oh yes"}
    assert label("longer", row) == " oh yes >  no"


def test_what_a_template_is_told_goes_with_the_pair() -> None:
    turns = {"prompt": "q", "response_0": "a", "response_1": "b b"}
    pair = label_by(RULES["longer"], 0)({**RATED, **turns, "tools": [{"name": "look"}]})
    assert pair is not None
    assert pair.tools == '[{"name": "look"}]'


ROWS = [
    {"question": f"q{n}", "good": f"g{n}", "bad": f"b{n}", "lang": "en" if n % 2 else "de"}
    for n in range(6)
]
HEAD = """\
name: tone
summary: s
columns: {prompt: question, chosen: good, rejected: bad}
sources:
"""


def read(axis: Axis, source: str, **asked: Any) -> SourceRows:
    found = axis.sources[source](SourceRequest(**asked))
    assert isinstance(found, SourceRows)
    return SourceRows(list(found.rows), found.origin, found.revision)


def declare(folder: Path, sources: str) -> Axis:
    (folder / "tone.yaml").write_text(HEAD + sources)
    return axis_from_yaml(folder / "tone.yaml")


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "rows.jsonl").write_bytes(lines(ROWS))
    (tmp_path / "deep" / "rows.jsonl.gz").write_bytes(gzip.compress(lines(ROWS)))
    return tmp_path


@pytest.mark.parametrize("file", ["rows.jsonl", "deep/rows.jsonl.gz"])
def test_a_file_is_found_beside_the_yaml(folder: Path, file: str) -> None:
    found = read(declare(folder, f"- file: {file}\n"), "rows", limit=2)
    assert (found.origin, found.revision) == (Path(file).name, None)
    assert found.rows == [
        {
            "prompt": f"q{n}",
            "chosen": f"g{n}",
            "rejected": f"b{n}",
            "place": f"{found.origin}:{n + 1}",
        }
        for n in range(2)
    ]


def test_only_rows_that_fit_count(folder: Path) -> None:
    axis = declare(folder, "- {file: rows.jsonl, where: {lang: en, question: [q1, q5, q4]}}\n")
    assert [row["place"] for row in read(axis, "rows").rows] == ["rows.jsonl:2", "rows.jsonl:6"]
    assert len(read(axis, "rows", limit=1).rows) == 1


def test_a_source_has_its_own_columns_over_those_at_the_top(folder: Path) -> None:
    axis = declare(
        folder, "- {file: rows.jsonl, columns: {chosen: bad, rejected: good, group: lang}}\n"
    )
    assert read(axis, "rows").rows[0] == {
        "prompt": "q0",
        "chosen": "b0",
        "rejected": "g0",
        "group": "de",
        "place": "rows.jsonl:1",
    }


def test_a_missing_column_is_told_with_file_and_line(folder: Path) -> None:
    rows = [*ROWS[:2], {"question": "q", "worse": "b", "good": "g"}]
    (folder / "rows.jsonl").write_bytes(lines(rows))
    axis = declare(folder, "- file: rows.jsonl\n")
    with pytest.raises(
        DataError, match=r"^rows.jsonl:3: column 'bad' is missing \(found: question, worse, good\)"
    ):
        read(axis, "rows")


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Serve rows.jsonl as the data set org/set and return what was asked of the hub."""
    asked: list[Any] = []
    real = datasets.load_dataset

    def info(_: Any, name: str, revision: str | None = None) -> Any:
        asked.append((name, revision))
        return SimpleNamespace(sha="c0ffee")

    def load(name: str, config: str | None, *, split: str, revision: str, streaming: bool) -> Any:
        asked.append((name, config, split, revision, streaming))
        files = {split: str(folder / "rows.jsonl")}
        return real("json", data_files=files, split=split, streaming=streaming)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_data_set_is_streamed_at_the_revision_of_the_file(folder: Path, hub: list[Any]) -> None:
    axis = declare(folder, "- {hub: org/set, config: en, split: test, revision: v1}\n")
    found = read(axis, "set", limit=3)
    assert hub == [("org/set", "v1"), ("org/set", "en", "test", "c0ffee", True)]
    assert (found.origin, found.revision) == ("hf:org/set", "c0ffee")
    assert [row["place"] for row in found.rows] == [f"org/set, row {n}" for n in (1, 2, 3)]


def test_a_revision_that_is_asked_for_wins(folder: Path, hub: list[Any]) -> None:
    read(declare(folder, "- {hub: org/set, revision: v1}\n"), "set", revision="v2")
    assert hub[0] == ("org/set", "v2")


def test_a_limit_counts_the_rows_that_fit(folder: Path, hub: list[Any]) -> None:
    axis = declare(folder, "- {hub: org/set, where: {lang: en}}\n")
    assert [row["prompt"] for row in read(axis, "set", limit=2).rows] == ["q1", "q3"]


def test_a_data_set_without_a_column_is_named(folder: Path, hub: list[Any]) -> None:
    axis = declare(folder, "- {hub: org/set, columns: {chosen: better}}\n")
    with pytest.raises(DataError, match=r"^org/set, row 1: column 'better' is missing"):
        read(axis, "set")


def test_tables_and_optional_columns_are_read(folder: Path) -> None:
    (folder / "rows.csv").write_text("lang,score,good,bad\nen,5,q? a,q? b\nde,4,q? c,q? d\n")
    text = HEAD.replace("prompt: question, ", "").replace(
        "sources:", "where: {score: [5]}\nsources:"
    )
    (folder / "tone.yaml").write_text(text + "- file: rows.csv\n")
    axis = axis_from_yaml(folder / "tone.yaml")
    assert read(axis, "rows").rows == [
        {"chosen": "q? a", "rejected": "q? b", "place": "rows.csv:2"}
    ]
    pair = axis.label(read(axis, "rows").rows[0])  # type: ignore[index]
    assert pair is not None
    assert (pair.prompt, pair.chosen, pair.prompt_from) == ("q?", " a", "beginning")


def test_what_may_be_the_prompt_is_not_passed_over(folder: Path) -> None:
    text = HEAD.replace("prompt: question, ", "")
    (folder / "tone.yaml").write_text(text + "- file: rows.jsonl\n")
    axis = axis_from_yaml(folder / "tone.yaml")
    with pytest.raises(DataError, match="'prompt' is missing; if 'question' is meant, give it"):
        axis.label(read(axis, "rows").rows[0])  # type: ignore[index]


def test_tools_and_options_may_have_columns_of_other_names(folder: Path) -> None:
    rows = [{**ROWS[0], "functions": [{"name": "look"}], "chat_template_kwargs": {"a": 1}}]
    (folder / "rows.jsonl").write_bytes(lines(rows))
    axis = declare(folder, "- {file: rows.jsonl, columns: {tools: functions}}\n")
    [row] = read(axis, "rows").rows
    assert (row["tools"], row["chat_template_kwargs"]) == ([{"name": "look"}], {"a": 1})
