"""Templates of every shape that models have: what is written is what TRL's own trainer writes."""

import datetime
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaProcessor

from byte_tokens import Ids, assistant, of_trl, row, tokenizer, user, written
from prefreg import BaseModelError, DataError, Message, PreferencePair
from prefreg.data import templates
from prefreg.data.rendering import encode_prompt
from prefreg.data.templates import check_options, find_day
from prefreg.data.tokens import tokenise_pairs
from prefreg.errors import UsageError

EACH = "{% for m in messages %}{%- set text = m.content or '' -%}"
TURN = "<|start|>{{ m.role }}\n{{ text }}<|end|>\n{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
SPLIT = (
    "{%- if '</think>' in text -%}{%- set thought = text.split('</think>')[0].split('<think>')[-1]"
    " | trim -%}{%- set text = text.split('</think>')[-1].lstrip('\n') -%}"
    "{%- else -%}{%- set thought = m.reasoning_content or '' -%}{%- endif -%}"
)
LAST = "m.role == 'assistant' and loop.last"


@dataclass(frozen=True)
class Shape:
    """A kind of chat template; as the rows say, it is TRL's tokens or a refusal."""

    template: str
    refused: tuple[str, ...] = ()
    lost: str = ""
    """How the generation prompt ends, beyond what it shares with an answer of the plain row."""


SHAPES = {
    "plain": Shape(EACH + TURN + OPEN),
    "trimmed": Shape(EACH + TURN.replace("{{ text }}", "{{ text | trim }}") + OPEN),
    "other names of roles": Shape(
        EACH
        + TURN.replace("m.role", "{'assistant': 'model'}.get(m.role, m.role)")
        + OPEN.replace("assistant", "model")
    ),
    # An empty block of thought before the answer, and none in the history: Qwen 3.
    "thinks or not": Shape(
        EACH
        + SPLIT
        + "{%- if "
        + LAST
        + " %}<|start|>assistant\n<think>\n{{ thought }}\n</think>\n\n{{ text }}<|end|>\n"
        + "{%- else %}"
        + TURN.replace("{% endfor %}", "{% endif %}{% endfor %}")
        + "{% if add_generation_prompt %}<|start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
        "{% endif %}{% endif %}",
        refused=("begun answer",),
    ),
    # The same, and the generation prompt opens the thought: Qwen 3.5.
    "always thinks": Shape(
        EACH
        + SPLIT
        + "<|start|>{{ m.role }}\n{% if "
        + LAST
        + " %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ text }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n<think>\n"
        "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}"
        "{% endif %}"
        "{% endif %}",
        refused=("begun answer",),
    ),
    # Thoughts are never written, but the generation prompt opens one: DeepSeek-R1.
    "opens a thought": Shape(
        "<s>"
        + EACH
        + "{% if '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
        + TURN
        + "{% if add_generation_prompt %}<|start|>assistant\n<think>\n{% endif %}",
        lost="<think>\n",
    ),
    # The answer stands close to an empty thought, its opening is followed by a line: Nemotron 3.
    "thought without a line": Shape(
        EACH + "<|start|>{{ m.role }}\n{% if m.role == 'assistant' and '</think>' not in text %}"
        "<think></think>{% endif %}{{ text | trim }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n<think>"
        "{% if enable_thinking is defined and not enable_thinking %}</think>"
        "{% else %}{{ '\n' }}{% endif %}{% endif %}",
        lost="\n",
    ),
    "channels": Shape(
        EACH + "<|start|>{{ m.role }}{% if m.role == 'assistant' %}"
        "{% if m.thinking %} analysis\n{{ m.thinking }}<|end|>\n<|start|>assistant{% endif %} final"
        "{% endif %}\n{{ text }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    ),
    "today": Shape("Today: {{ strftime_now('%d %b %Y') }}\n" + EACH + TURN + OPEN),
    "today unless told": Shape(
        '{% if not date_string is defined %}{% set date_string = strftime_now("%Y-%m-%d") %}'
        "{% endif %}{{ date_string }}\n" + EACH + TURN + OPEN
    ),
    "no generation prompt": Shape(EACH + TURN),
    "a generation prompt always": Shape(EACH + TURN + "<|start|>assistant\n"),
    "an open turn without special tokens": Shape(
        EACH + "{{ m.role }}: {{ text }}\n{% endfor %}assistant:"
    ),
    "marked for training": Shape(
        EACH
        + "<|start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ text }}<|end|>"
        "{% endgeneration %}{% else %}{{ text }}<|end|>{% endif %}{% endfor %}" + OPEN,
    ),
    "no end": Shape(
        EACH + "\n{{ m.role }}: {{ text }}{% endfor %}"
        "{% if add_generation_prompt %}\nassistant:{% endif %}",
    ),
    "no developer": Shape(
        EACH
        + "{% if m.role != 'developer' %}"
        + TURN.replace("{% endfor %}", "{% endif %}{% endfor %}")
        + OPEN,
        refused=("developer",),
    ),
    "raises at a developer": Shape(
        EACH + "{% if m.role == 'developer' %}{{ raise_exception('no') }}{% endif %}" + TURN + OPEN,
        refused=("developer",),
    ),
    "the system within the question": Shape(
        "{% set ns = namespace(begin='') %}"
        + EACH
        + "{% if m.role in ('system', 'developer') %}{% set ns.begin = text + '\n\n' %}"
        "{% elif m.role == 'assistant' %} {{ text }}<|end|>"
        "{% else %}[INST] {{ ns.begin + text }} [/INST]{% set ns.begin = '' %}{% endif %}"
        "{% endfor %}",
    ),
    "calls without words": Shape(
        EACH + "<|start|>{{ m.role }}\n{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}"
        "{% elif m.role == 'tool' %}{{ text | tojson }}{% else %}{{ text }}{% endif %}"
        "<|end|>\n{% endfor %}" + OPEN,
        refused=("call with words",),
    ),
    "with tools": Shape(
        "{% if tools %}<|start|>tools\n{{ tools | tojson }}<|end|>\n{% endif %}"
        + EACH
        + "<|start|>{{ m.role }}\n{{ text }}{% for c in m.tool_calls or [] %}"
        "[call] {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
        "<|end|>\n{% endfor %}" + OPEN
    ),
}

CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "a boat", "no": 1}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
ASKED = [user("what colour?")]
RED, GREEN = [assistant("red")], [assistant("green")]
SYSTEM = {"role": "system", "content": "be short"}
ROWS = {
    "plain": row(ASKED, RED, GREEN),
    "system": row([SYSTEM, *ASKED], RED, GREEN),
    "turns": row([*ASKED, assistant("a fox\n"), user("and now?")], RED, GREEN),
    "turns of an answer": row(ASKED, [*RED, user("sure?"), *RED], [*GREEN, user("no?"), *GREEN]),
    "line ends": row([user("what colour?\n")], [assistant("red \n")], [assistant(" green")]),
    "indented": row(ASKED, [assistant("    red\n    yes")], [assistant("green")]),
    "begun answer": row([*ASKED, assistant("it is")], RED, GREEN),
    "thoughts": row(
        ASKED,
        [assistant("<think>\nred first\n</think>\n\nred")],
        [assistant("<think>\ngreen first\n</think>\n\ngreen")],
    ),
    "thought of one": row(ASKED, [assistant("<think>hm</think>red")], GREEN),
    "thought before": row(
        [*ASKED, assistant("<think>\na fox?\n</think>\n\na fox"), user("and now?")], RED, GREEN
    ),
    "reasoning": row(
        ASKED,
        [assistant("red", reasoning_content="red first")],
        [assistant("green", reasoning_content="green first")],
    ),
    "without thinking": row(ASKED, RED, GREEN, chat_template_kwargs={"enable_thinking": False}),
    "with thinking": row(ASKED, RED, GREEN, chat_template_kwargs={"enable_thinking": True}),
    "a day": row(ASKED, RED, GREEN, chat_template_kwargs={"date_string": "1 May 2001"}),
    "developer": row([{"role": "developer", "content": "be short"}, *ASKED], RED, GREEN),
    "tools": row([SYSTEM, *ASKED], RED, GREEN, tools=[TOOL]),
    "call": row(ASKED, [assistant(None, tool_calls=[CALL])], GREEN),
    "call with words": row(ASKED, [assistant("so", tool_calls=[CALL])], GREEN),
    "call before": row(
        [*ASKED, assistant("", tool_calls=[CALL]), {"role": "tool", "content": '"red"\n'}],
        RED,
        GREEN,
    ),
    "special text": row([user("is <s> red?")], [assistant("<s> is")], [assistant("no<|end|>")]),
    "emoji": row([user("🦊‍🦰 שלום \u202e?")], [assistant("red ❤️")], [assistant("green\u00a0")]),
}


def texts(ids: Ids, using: Any) -> list[str]:
    return [using.decode(each) for each in ids]


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_becomes_the_tokens_of_trl_or_is_refused(name: str) -> None:
    shape = SHAPES[name]
    using = tokenizer(shape.template)
    refused = []
    for form, given in ROWS.items():
        try:
            found, _ = written(given, using)
        except DataError:
            refused.append(form)
            continue
        expected = of_trl(given, using)
        assert texts(found, using) == texts(expected, using), form
        assert found == expected, form
    assert tuple(refused) == shape.refused


@pytest.mark.parametrize("name", SHAPES)
def test_a_prompt_to_answer_is_the_one_of_training_with_what_an_answer_leaves_out(
    name: str,
) -> None:
    shape = SHAPES[name]
    using = tokenizer(shape.template)
    for form in ("plain", "system", "turns", "without thinking", "tools"):
        pair = PreferencePair.from_row(ROWS[form])
        (prompt, *_), made = written(pair, using)
        asked = encode_prompt(pair.prompt, using, pair.told)
        assert asked[: len(prompt)] == prompt
        lost = using.decode(asked[len(prompt) :])
        assert made.manner.lost_end == (lost if lost.strip() else "")
        told = {"tools": ROWS[form].get("tools"), **ROWS[form].get("chat_template_kwargs", {})}
        expected = using.apply_chat_template(
            ROWS[form]["prompt"], add_generation_prompt=True, **told
        )
        assert asked == expected["input_ids"]
        if form == "plain":
            assert lost == shape.lost
        if form == "without thinking" and "enable_thinking" in shape.template:
            assert lost == ""


def test_what_a_turn_thought_and_the_template_leaves_out_is_told() -> None:
    _, made = written(ROWS["thoughts"], tokenizer(SHAPES["opens a thought"].template))
    assert (made.manner.incomplete, made.manner.unwritten) == (1, {"<think>": 1})
    _, made = written(ROWS["thoughts"], tokenizer(SHAPES["thinks or not"].template))
    assert made.manner.incomplete == 0


def test_a_prompt_that_ends_otherwise_alone_is_told_with_the_option_that_may_mend_it() -> None:
    _, made = written(ROWS["turns of an answer"], tokenizer(SHAPES["always thinks"].template))
    [told] = made.manner.notes("pairs")
    assert told == (
        "The chat template ends the prompt of 1 pairs with '<think>\\n', which it leaves out "
        "before an answer: the answer begins where both part, as in TRL, and is generated after "
        "all of it. Its option enable_thinking may write both alike."
    )
    _, made = written(ROWS["plain"], tokenizer(SHAPES["opens a thought"].template))
    [told] = made.manner.notes("pairs")
    assert told.endswith("and is generated after all of it.")


def test_an_answer_that_only_thought_is_refused_where_that_is_left_out() -> None:
    given = row(ASKED, [assistant("<think>red</think>")], GREEN)
    with pytest.raises(DataError, match="leaves out or changes the 'assistant' turn"):
        written(given, tokenizer(SHAPES["opens a thought"].template))


@pytest.mark.parametrize(
    ("shape", "day"), [("today", "03 Feb 2001"), ("today unless told", "2001-02-03")]
)
def test_a_day_is_pinned(shape: str, day: str) -> None:
    using = tokenizer(SHAPES[shape].template)
    pair = PreferencePair.from_row(ROWS["plain"]).tell({"strftime_now": "2001-02-03"})
    now = using.decode(encode_prompt(pair.prompt, using))
    then = using.decode(written(pair, using)[0][0])
    assert day in then
    assert then.split("\n", 1)[1] == now.split("\n", 1)[1]
    assert using.decode(encode_prompt(pair.prompt, using, pair.told)) == then
    assert find_day(using, {}) == datetime.date.today().isoformat()
    assert find_day(using, {"strftime_now": "2001-02-03"}) is None
    assert (find_day(using, {"date_string": "May"}) is None) == (shape == "today unless told")
    assert find_day(tokenizer(SHAPES["plain"].template), {}) is None


def test_what_is_no_day_or_a_time_that_is_not_written_out_is_refused() -> None:
    pair = PreferencePair.from_row(ROWS["plain"])
    with pytest.raises(DataError, match="'strftime_now' is 'May', and no day as 2026-11-27"):
        written(pair.tell({"strftime_now": "May"}), tokenizer(SHAPES["today"].template))
    hidden = SHAPES["today"].template.replace("'%d %b %Y'", "'%d' ~ ' %b'")
    with pytest.raises(DataError, match="by a form that is not written out"):
        written(pair.tell({"strftime_now": "2001-02-03"}), tokenizer(hidden))


def test_an_option_that_the_template_does_not_read_is_refused() -> None:
    using = tokenizer(SHAPES["thinks or not"].template)
    check_options(using, {"enable_thinking": False})
    with pytest.raises(UsageError, match=r"no option 'enable_thinkin'\. Did you mean 'enable_th"):
        check_options(using, {"enable_thinkin": False})
    with pytest.raises(UsageError, match="reads no option 'add_generation_prompt'"):
        check_options(using, {"add_generation_prompt": False})
    with pytest.raises(UsageError, match="has no chat template, so that it takes no option 'a'"):
        check_options(tokenizer(None), {"a": 1})
    check_options(tokenizer(None), {})


def test_the_options_of_a_row_stand_over_those_of_the_run() -> None:
    pair = PreferencePair.from_row(ROWS["without thinking"])
    told = pair.tell({"enable_thinking": True, "loud": True})
    assert json.loads(told.template_options) == {"enable_thinking": False, "loud": True}
    assert pair.tell({}) is pair
    strings = PreferencePair("what? ", "red", "green")
    assert strings.tell({"loud": True}) is strings


PARTS = (
    EACH.replace("{%- set text = m.content or '' -%}", "")
    + "{{ m.role | capitalize }}: {% for part in m.content %}{{ part.text }}{% endfor %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
EITHER = EACH + TURN.replace(
    "{{ text }}", "{% if text is string %}{{ text }}{% else %}{{ text[0].text }}{% endif %}"
)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("template", [PARTS, "<s>" + PARTS, EITHER + OPEN])
def test_beside_a_processor_contents_are_parts_as_by_trl(
    template: str, bos: bool, tmp_path: Path
) -> None:
    processor = LlavaProcessor(
        CLIPImageProcessorPil(),
        tokenizer(template, bos=bos, special=("<image>",)),
        patch_size=14,
        chat_template=template,
    )
    processor.save_pretrained(tmp_path)
    using = AutoTokenizer.from_pretrained(tmp_path)
    for form in ("plain", "system", "turns", "turns of an answer", "line ends", "thoughts"):
        expected = of_trl(ROWS[form], processor)
        found, _ = written(ROWS[form], using)
        assert texts(found, using) == texts(expected, using), form
        assert found == expected
    with pytest.raises(DataError, match="a processor's roles are system, user, assistant, tool"):
        written(ROWS["developer"], using)


def test_beside_a_processor_a_turn_that_would_be_written_as_a_list_is_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "processor_config.json").write_text("{}")
    given = (EITHER + OPEN).replace("text is string", "text is string or m.role == 'system'")
    tokenizer(given).save_pretrained(tmp_path)
    using = AutoTokenizer.from_pretrained(tmp_path)
    written(ROWS["plain"], using)
    with pytest.raises(DataError, match="leaves out or changes the 'system' turn of pair 1"):
        written(ROWS["system"], using)


def test_without_a_processor_a_template_of_parts_is_refused() -> None:
    with pytest.raises(DataError, match=r"put processor_config\.json or preprocessor_config"):
        written(ROWS["plain"], tokenizer(PARTS))
    both = SHAPES["no developer"].template.replace("{{ text }}", "{{ text[0].text or text }}")
    with pytest.raises(DataError, match="Move its content into another turn"):
        written(ROWS["developer"], tokenizer(both))


ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "macro": "{% macro m(n) %}{{ n and m(n - 1) }}{{ n and m(n - 1) }}{% endmacro %}{{ m(60) }}",
    "power": "{{ 9 ** (9 ** 9) }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_end_is_ended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_PATIENCE", 0.2)
    endless = tokenizer(ENDLESS[name] + EACH + TURN + OPEN)
    endless.name_or_path = "org/endless"
    before = signal.getsignal(signal.SIGVTALRM)
    pair = PreferencePair.from_row(row([user("q")], [assistant("a")], [assistant("b")]))
    for write in (
        lambda: encode_prompt((Message("user", "hi"),), endless),
        lambda: tokenise_pairs([pair], endless, max_length=99),
    ):
        with pytest.raises(BaseModelError, match="template of org/endless does not come to an end"):
            write()
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion depth"),
        ("{{ 'a' * 10**8 }}{{ messages[0].content }}", "it writes 100,000,002 letters"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    ],
)
def test_a_template_out_of_measure_is_refused(template: str, said: str) -> None:
    with pytest.raises(DataError, match=f"template refused the prompt .*{said}"):
        encode_prompt((Message("user", "hi"),), tokenizer(template))


@pytest.mark.parametrize("template", [5, {"default": 5}])
def test_a_template_that_is_no_text_is_refused(template: Any) -> None:
    with pytest.raises(BaseModelError, match="is no text"):
        find_day(tokenizer(template), {})
