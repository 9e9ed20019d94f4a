"""The methods of combining vectors that plugins bring."""

from types import ModuleType

from prefreg.containment import reason
from prefreg.methods import Method
from prefreg.plugins.disabled import read_disabled
from prefreg.plugins.discovery import find_plugins
from prefreg.plugins.loading import collect, hooks_of, quietly, target_of


def load_methods() -> tuple[dict[str, Method], tuple[str, ...]]:
    """Return the methods of every plugin that may be loaded, and what is wrong with the others.

    Of two methods with one name, the first is taken, as with axes.

    Raises:
        AxisError: The list of disabled plugins cannot be read.
    """
    disabled = read_disabled()
    methods: dict[str, Method] = {}
    problems = []
    for found in find_plugins():
        if found.point is None or not disabled.isdisjoint(found.keys):
            continue
        if found.problem is not None:
            problems.append(f"{found.name} ({found.problem})")
            continue
        try:
            with quietly():
                for method in read_methods(target_of(found.point), found.name):
                    methods.setdefault(method.name, method)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a plugin must not end the command line.
            problems.append(f"{found.name} ({reason(error)})")
    return methods, tuple(problems)


def read_methods(module: ModuleType | object, name: str) -> tuple[Method, ...]:
    """Register one plugin on a manager of its own and collect its methods.

    Raises:
        AxisError: A hook is misspelt, or returns something else than methods.
        Exception: Whatever the hook itself raises.
    """
    answers = hooks_of(module, name).prefreg_register_methods()
    return collect(answers, Method, hook="prefreg_register_methods", what="methods")
