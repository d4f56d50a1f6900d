"""Adds the tests' own job kinds to a worker's: put this folder on PYTHONPATH."""

from pathlib import Path

import tasks.kinds

tasks.kinds.__path__.append(str(Path(__file__).parent / "kinds"))
