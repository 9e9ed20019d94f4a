"""What every command takes: common options, types of parameters, and options of requests."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

import prefreg
from prefreg import launch
from prefreg.cli import completing
from prefreg.cli.spinner import Spinner
from prefreg.errors import UsageError
from prefreg.json_values import finite
from prefreg.progress import heard_by
from prefreg.requests import describe_fields
from prefreg.terms import parse_dial, parse_preset, parse_reference, parse_term
from prefreg.values import MAX_SEED, STORAGE_DTYPES, dtype_name
from prefreg.wording import (
    as_options,
    escape_json,
    escape_styled,
    hide_password,
    is_unicode,
    percent,
)

if TYPE_CHECKING:
    from prefreg.api import Registry

Reference = tuple[str, str | None]

JSON_SCHEMA = 1
GATE_NOT_MET = 3


@dataclass(slots=True)
class Common:
    """The options that every command takes, before or after its name."""

    registry: str | None = None
    no_starter: bool = False
    blobs: str | None = None
    json: bool = False
    quiet: bool = False
    spinner: Spinner = field(default_factory=Spinner)
    waits_for: str = ""
    silent: bool = False
    """Whether another process of the run tells."""

    def open_registry(self) -> "Registry":
        """Open the registry that the options name."""
        return prefreg.open(self.registry, starter=not self.no_starter, blobs=self.blobs)

    def emit(self, command: str, data: Any, text: str, *, asked: bool = False) -> None:
        """Write the result to stdout: the JSON document, or the text for people.

        `asked` says that the text answers a question, so --quiet keeps it.
        """
        self.spinner.stop()
        if self.silent:
            return
        if self.json:
            document = {"schema": JSON_SCHEMA, "command": command, "data": data}
            text = json.dumps(finite(document), ensure_ascii=False, indent=2)
            click.echo(escape_json(text))
        elif asked or (text and not self.quiet):
            click.echo(_for_people(text))

    def note(self, text: str) -> None:
        """Tell the user something on stderr that is not the result."""
        if not self.quiet:
            with self.spinner.aside():
                click.echo(_for_people(text), err=True)

    def hear(self, stage: str, done: int, total: int, loss: float | None = None, /) -> None:
        """Show how far work is that a command did not plan, such as dequantising its base."""
        self.spinner.label = f"{stage}, {percent(done / total)}" if done < total else self.waits_for
        if not (done or self.quiet or self.spinner.turning):
            self.note(f"{stage[0].upper()}{stage[1:]}, once …")

    @contextmanager
    def waiting(self, label: str) -> Iterator[None]:
        """Show on a terminal that something is under way, until there is something else to show."""
        self.waits_for = self.spinner.label = label
        if not (self.quiet or self.json) and sys.stderr.isatty() and sys.stdout.isatty():
            self.spinner.start()
        try:
            with heard_by(self.hear):
                yield
        finally:
            self.spinner.stop()


def _for_people(text: str) -> str:
    """Write arguments as options, no password, and no control characters but those of colours."""
    return as_options(escape_styled(hide_password(text)))


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        # Given before and after the subcommand, the later one wins; absent changes nothing.
        if value:
            setattr(context.ensure_object(Common), name, value)

    return callback


def common_options() -> list[click.Parameter]:
    """Make the options that stand before or after the name of every command."""
    return [
        click.Option(
            ["--registry"],
            metavar="PATH_OR_URL",
            expose_value=False,
            callback=_store("registry"),
            help="Registry to use.  [env: PREFREG_REGISTRY; default: ./registry.db]",
        ),
        click.Option(
            ["--blobs"],
            metavar="URL",
            expose_value=False,
            callback=_store("blobs"),
            help="Store for the vectors of a new registry, which remembers it: s3://BUCKET/PREFIX "
            "or file:///FOLDER.  [env: PREFREG_BLOBS]",
        ),
        click.Option(
            ["--no-starter"],
            is_flag=True,
            expose_value=False,
            callback=_store("no_starter"),
            help="Leave out the vectors that ship with prefreg.  [env: PREFREG_NO_STARTER]",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_store("json"),
            help="Write the result as one JSON document.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_store("quiet"),
            help="Write nothing but the result asked for and errors.",
        ),
    ]


class Command(click.Command):
    """A command that takes the common options too."""

    def __init__(self, *args: Any, takes_several: bool = False, **kwargs: Any) -> None:
        """Add the common options behind the command's own.

        `takes_several` says that several processes may carry it out together.
        """
        super().__init__(*args, **kwargs)
        self.takes_several = takes_several
        self.params.extend(common_options())

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all parameters; those of a request are made when they are first asked for."""
        self.params = [
            param
            for each in self.params
            for param in (each.options() if isinstance(each, RequestOptions) else [each])
        ]
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and show that it is under way where nothing else does.

        Of several processes the first one tells.
        """
        started = launch.current()
        if started.world > 1 and not self.takes_several:
            raise UsageError(
                f"prefreg {ctx.command.name} runs in one process, and {started.world} were "
                "started: torchrun and accelerate launch are for add-axis."
            )
        common = ctx.ensure_object(Common)
        common.silent = started.rank > 0
        common.quiet = common.quiet or common.silent
        with ctx.ensure_object(Common).waiting(ctx.command.name or ""):
            return super().invoke(ctx)


def command(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command that takes the common options and is handed them first."""
    declare = click.command(name, cls=Command, **kwargs)
    return lambda function: declare(click.pass_obj(function))


class RequestOption(click.Option):
    """An option that is a field of a request: left out, it leaves the field to its default."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Hand over only what the user has given."""
        found = super().handle_parse_result(ctx, opts, args)
        if self.name and ctx.get_parameter_source(self.name) is ParameterSource.DEFAULT:
            ctx.params.pop(self.name, None)
        return found


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The options that the fields of a request become, in their order."""

    kind: str
    """A request of `prefreg`, which is imported only when its options are needed."""
    leave: frozenset[str]
    """Fields that are no options of this command."""
    changes: Mapping[str, Mapping[str, Any]]
    """What is another in this command, by the field."""

    def options(self) -> list[click.Parameter]:
        """Make the options."""
        kind = getattr(prefreg, self.kind)
        texts = describe_fields(kind)
        return [
            _make_option(field, texts.get(field.name), self.changes.get(field.name, {}))
            for field in fields(kind)
            if field.name not in self.leave
        ]


Function = TypeVar("Function", bound=Callable[..., Any])


def request_options(
    kind: str, *, leave: str = "", **changes: Mapping[str, Any]
) -> Callable[[Function], Function]:
    """Give a command the options that are the fields of a request, but for those to leave."""
    options = RequestOptions(kind, frozenset(leave.split()), changes)

    def add(function: Function) -> Function:
        # Where click's own decorators gather parameters, last first.
        params = function.__dict__.setdefault("__click_params__", [])
        params.append(cast("click.Parameter", options))
        return function

    return add


def _make_option(
    field: Field[Any], text: str | None, changes: Mapping[str, Any]
) -> click.Parameter:
    """Make the option of a field: its type, its default, and what is written beneath it."""
    made = {"help": text, **_option_type(field.type), **_FIELDS.get(field.name, {}), **changes}
    default = None if field.default is MISSING else field.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if not (default is None or default is False or default == ""):
        made = {"default": default, "show_default": True, **made}
    if field.default is MISSING and field.default_factory is MISSING:
        made = {"required": True, **made}
    flag = f"--{field.name.replace('_', '-')}"
    if field.default is True:
        flag += f"/--no-{flag[2:]}"
    return RequestOption([field.name, *made.pop("names", [flag])], **made)


def _option_type(kind: Any) -> dict[str, Any]:
    """Say what kind of option a field of this type is, whether it may be None or not."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for each in kinds:
        if get_origin(each) is Literal:
            return {"type": click.Choice(get_args(each))}
        if get_origin(each) is not None:  # several texts
            return {"multiple": True}
    if bool in kinds:
        return {"is_flag": True}
    if Path in kinds:
        return {"type": click.Path(path_type=Path)}
    if int in kinds:
        return {"type": WholeNumber()}
    return {"type": FiniteNumber() if float in kinds else str}


def read_text(read: Callable[[], str]) -> str:
    """Return what is read from standard input, if it is text.

    Raises:
        UsageError: It holds bytes that are no UTF-8, whatever the locale makes of them.
    """
    try:
        text = read()
    except UnicodeDecodeError:
        text = "\udcff"
    if not is_unicode(text):
        raise UsageError("Standard input is no UTF-8 text.")
    return text


Value = TypeVar("Value")


class ParsedType(click.ParamType[Value]):
    """What a function makes of a text; a text that it refuses is wrong usage."""

    def __init__(
        self, name: str, parse: Callable[[str], Value], complete: completing.Offer | None = None
    ) -> None:
        """Name the type, which shows where a parameter has no metavar."""
        self.name = name
        self.parse = parse
        self.complete = complete

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Offer values that begin so."""
        return self.complete(ctx, param, incomplete) if self.complete else []

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Value:
        """Parse a text; a default is what it is."""
        try:
            return self.parse(value) if isinstance(value, str) else cast("Value", value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class _Bounded:
    """Numbers that every counter and generator takes, and none that is not finite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a number, and refuse one that is out of measure."""
        found = super().convert(value, param, ctx)  # type: ignore[misc]
        if found is not None and not abs(found) <= MAX_SEED:
            self.fail(f"{value!r} is out of measure.", param, ctx)  # type: ignore[attr-defined]
        return found


class _Whole(_Bounded):
    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Write it as the manuals do."""
        return "N"


class _Real(_Bounded):
    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Write it as the manuals do."""
        return "NUMBER"


class WholeNumber(_Whole, click.types.IntParamType):
    """A whole number."""


class WholeRange(_Whole, click.IntRange):
    """A whole number from a least one on."""


class FiniteNumber(_Real, click.types.FloatParamType):
    """A number."""


class FiniteRange(_Real, click.FloatRange):
    """A number within bounds."""


class Dtype(click.Choice[str]):
    """A dtype by its name, or as bf16, fp16 and fp32."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name of the dtype."""
        with suppress(UsageError):  # the message of a choice names what there is
            value = dtype_name(value)
        return super().convert(value, param, ctx)


PICTURES = (".png", ".pdf", ".svg")
"""As `evaluation.plots` saves them, which is not imported here: it loads matplotlib."""


class PictureType(click.Path):
    """A file that a picture is written to, in the form that its ending says."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the ending and the folder before anything is measured."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix.lower() not in PICTURES:
            forms = ", ".join(PICTURES)
            self.fail(f"{str(path)!r} does not end in {forms}, the forms of pictures.", param, ctx)
        if not path.absolute().parent.is_dir():
            self.fail(f"There is no folder {path.parent} for the picture.", param, ctx)
        return path


def _parse_moment(text: str) -> datetime:
    from prefreg.api import parse_moment

    return parse_moment(text)


def _parse_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parse_seeds(text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise UsageError(f"{part!r} is no seed: write whole numbers, as in 0,1,2 or 0-7.")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < first + _MOST_SEEDS:
            raise UsageError(f"{part!r} is no range of seeds.")
        seeds += range(first, last + 1)
    return tuple(seeds)


_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_MOST_SEEDS = 1000

TERM = ParsedType("term", parse_term, completing.TERMS)
PRESET = ParsedType("preset", parse_preset, completing.PRESETS)
REFERENCE = ParsedType("reference", parse_reference, completing.VERSIONS)
DIAL = ParsedType("dial", parse_dial, completing.VERSIONS)
NAMES = ParsedType("names", _parse_names)
SCORING = "axes retention tasks task_limit task_path reward_models judge judge_model judge_timeout"
"""The fields of `EvaluationRequest` that compositions need, and single dials do not."""
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_ONE_OR_MORE = WholeRange(1)
_AT: Mapping[str, Any] = {
    "type": ParsedType("date", _parse_moment),
    "metavar": "DATE",
    "help": "As it was at the end of YYYY-MM-DD, or at YYYY-MM-DDTHH:MM, in UTC.",
}
_BASE: Mapping[str, Any] = {"metavar": "BASE", "shell_complete": completing.BASES}
AT = click.option("--at", **_AT)


def base_option(text: str) -> Callable[[Function], Function]:
    """Make the option of a base for commands without a request that has it."""
    return click.option("--base", help=text, **_BASE)


PLOT = click.option(
    "--plot",
    type=PictureType(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw a picture too.",
)

_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "answers": {"type": WholeRange(0)},
    "at": _AT,
    "axes": {
        "type": NAMES,
        "multiple": False,
        "metavar": "NAMES",
        "shell_complete": completing.AXIS_LIST,
    },
    "base": _BASE,
    "config": {"type": FILE, "metavar": "FILE"},
    "draws": {"type": WholeRange(20)},
    "device": {"metavar": "DEVICE"},
    "dtype": {"type": Dtype(STORAGE_DTYPES)},
    "form": {"names": ["--as"]},
    "guards": {"names": ["--guard"], "metavar": "KEY=NUMBER"},
    "halves": {"type": WholeRange(0), "metavar": "N", "show_default": False},
    "heldout": {"metavar": "FILE"},
    "hash_files": {"names": ["--hash"]},
    "judge": {"metavar": "URL"},
    "judge_model": {"metavar": "NAME"},
    "judge_timeout": {"type": FiniteRange(0, min_open=True)},
    "limit": {"type": _ONE_OR_MORE},
    "lora": {"type": WholeRange(0), "metavar": "RANK"},
    "lora_alpha": {"type": FiniteRange(0, min_open=True)},
    "lora_targets": {"type": NAMES, "multiple": False, "metavar": "NAME,..."},
    "max_length": {"type": WholeRange(2)},
    "max_new_tokens": {"type": _ONE_OR_MORE},
    "max_rank": {"type": _ONE_OR_MORE},
    "method": {"metavar": "NAME", "shell_complete": completing.METHODS},
    "max_shard_size": {"metavar": "SIZE"},
    "null": {"type": WholeRange(0), "metavar": "N", "show_default": False},
    "output": {"names": ["-o", "--output"], "metavar": "DIR"},
    "preset": {"metavar": "NAME"},
    "prompts": {"type": _ONE_OR_MORE},
    "prompts_file": {"type": click.Path(path_type=Path, dir_okay=False), "metavar": "FILE"},
    "revision": {"metavar": "REVISION"},
    "reward_models": {"names": ["--reward-model"], "metavar": "ID"},
    "seeds": {"type": ParsedType("seeds", _parse_seeds), "multiple": False, "metavar": "S,S…"},
    "settings": {"names": ["--set"], "metavar": "KEY=VALUE"},
    "tags": {"names": ["--tag"], "metavar": "TAG", "shell_complete": completing.TAGS},
    "task_limit": {"type": _ONE_OR_MORE},
    "task_path": {"type": FOLDER, "metavar": "DIR"},
    "tasks": {"type": NAMES, "multiple": False, "metavar": "NAMES"},
    "template_options": {"names": ["--template-option"], "metavar": "KEY=VALUE"},
    "temperature": {"type": FiniteRange(0)},
    "top_p": {"type": FiniteRange(0, 1, min_open=True)},
}
"""What the type of a field does not say of its option, in every command."""
