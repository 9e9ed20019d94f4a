"""What an installer is told."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tested_versions_name_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=]", each)[0] for each in wanted}
    tested = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().split()}
    assert names - tested == set()
