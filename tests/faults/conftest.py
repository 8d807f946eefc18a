"""The tests of faults borrow the tiny models of the golden files."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "golden"))
