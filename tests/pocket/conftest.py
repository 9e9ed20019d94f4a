"""The generator of worlds is no part of the package: its tests find it in the tools."""

import sys
from pathlib import Path

# At the end: another tool has modules of the same names.
sys.path.append(str(Path(__file__).parents[2] / "tools" / "pocket"))
