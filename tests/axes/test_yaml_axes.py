"""What a YAML axis may say, and what is told about one that says something else."""

import hashlib
from pathlib import Path

import pytest

import prefreg
from prefreg import Axis, AxisError, LicensedSource
from prefreg.axes.yaml_axes import read_declaration

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
    ("revision: v1", "revision: 2024-01-01", 12, "'revision' must be a text or a number: put a te"),
    ("revision: v1", "revision: !!python/name:os.system x", 12, "'revision' must be a text or"),
    ("revision: v1", "revision: !!int x", 12, "'revision' is not a number: 'x'"),
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
        (b"[" * 3000, "tone.yaml: not YAML: nested too deeply"),
        (b"name: a\nsummary: b\nsources: []\n", "tone.yaml:3: 'sources' is an empty list"),
        (b"name: a\nsummary: b\nsources: {}\n", "tone.yaml:3: 'sources' is not a list"),
        (b"name: a\nsummary: b\nsources: &a [*a]\n", "tone.yaml:3: 'sources' is not a mapping"),
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
