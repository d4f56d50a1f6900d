"""What derives from the tables is committed, and never stale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, "-m", "docs.generate", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"stale, run `make generate`: {done.stderr}"


def test_no_file_names_a_folder_of_the_machine_it_was_made_on() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    home = str(ROOT)
    texts = {name: (ROOT / name).read_bytes() for name in tracked.split("\0") if name and (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if home.encode() in text] == []
