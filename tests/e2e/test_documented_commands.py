"""Every command line of README.md and docs/ is typed as it stands there; a small Hub stands in for the real one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
import typer

from mistudio_cli.app import app
from tasks.jobs.kind import kinds
from tests.conftest import PATIENCE_S
from tests.e2e.conftest import MISTUDIO, Home, new_home
from tests.e2e.documented import DOCUMENTS, Line, commands_in_blocks, commands_in_sentences
from tests.e2e.stand_in_hub import WORDS, save_model, serve_documented
from tests.fixtures.sentinel import replicated
from tests.hub.repositories import WRITER

pytestmark = pytest.mark.timeout(1200)

#: What is typed besides, so that it takes seconds, and gets in nothing's way.
SMALL = {
    "submit train": " --steps 2 --batch 64 --eval-tokens 128 --evaluate 0",
    "submit activations": " --max-tokens 256",
    "saes pull": " --name pulled",
    "serve": " --port 0",
}

#: Documents whose lines are typed one after the other in one home, in this order.
IN_BLOCKS = [document for document in DOCUMENTS if list(commands_in_blocks(document))]


class Reader(Home):
    """A reader with a home, a model and a text of her own, who types what a document says."""

    def __init__(self, folder: Path, hub: str) -> None:
        super().__init__(folder)
        environment = {**self.environment, "HOME": str(folder), "XDG_CONFIG_HOME": "", "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "HF_TOKEN": WRITER}
        environment["PATH"] = f"{Path(MISTUDIO).parent}{os.pathsep}{environment['PATH']}"
        del environment["MISTUDIO_CONFIG_DIR"], environment["XDG_CONFIG_HOME"]
        self.environment = environment
        save_model(folder / "model", layers=8)
        (folder / "text.txt").write_text(" ".join(WORDS) * 3000)
        self.meant = {
            "redis://lab-server:6379/0": f"'redis+socket://{self.folder}/run/redis.sock?virtual_host=0'",
            "/shared/mistudio": f"{self.folder}/store",
        }
        self.meant |= {
            "MODEL": "model",
            "DATASET": "text.txt",
            "OWNER/REPO": "owner/saes",
            "--name NAME": "--name mine",
        }

    def follow(self, line: Line) -> None:
        """Type a line with this home's names in the places of those that the document leaves open."""
        text = line.text
        for word, meant in self.meant.items():
            text = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w/])", meant, text)
        text = text.replace("--model …", "--model model").replace("--dataset …", "--dataset text.txt")
        for command, more in SMALL.items():
            if text.startswith(f"mistudio {command}") and "--help" not in text:
                text += more
        if text.startswith("mistudio submit train") and "--name" not in text:
            text += f" --name {re.sub(r'[^a-z0-9]', '-', line.where.lower())}"
        if line.is_usage or "KIND" in text:
            text = text.replace("KIND", next(iter(kinds()))).removesuffix(" --help") + " --help"
        if text.startswith(("mistudio top", "mistudio serve")) and not set(text.split()) & {"--help", "--once"}:
            self.look_at(text)
            return
        done = subprocess.run(["bash", "-c", text.replace(" --wait", "")], cwd=self.folder, env=self.environment,
                              capture_output=True, text=True, timeout=600)  # fmt: skip
        allowed = (0, 1) if text.startswith(("mistudio doctor", "mistudio jobs wait")) else (0,)
        assert done.returncode in allowed, f"{line.where}: {text}\n{done.stdout}\n{done.stderr}"

    def look_at(self, text: str) -> None:
        """Type what stays until it is left."""
        screen = pexpect.spawn("bash", ["-c", text], cwd=self.folder, env=self.environment, dimensions=(40, 120))
        screen.expect("training" if "top" in text else r"http://127\.0\.0\.1:\d+", timeout=PATIENCE_S)
        screen.send("q" if "top" in text else "\x03")
        screen.expect(pexpect.EOF, timeout=PATIENCE_S)
        screen.close()
        assert screen.exitstatus in (0, 130), text


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader whose own SAE is trained, by the README's lines."""
    with serve_documented(tmp_path_factory.mktemp("hub")) as hub, replicated() as servers:
        reader = Reader(new_home().folder, hub)
        reader.meant["sentinel://sentinel-1:26379,sentinel-2:26379,sentinel-3:26379/mymaster/0"] = servers.url
        try:
            reader.type("workers start full")
            trained = f"submit train --model model --dataset text.txt --layer 6 --k 4 --name own{SMALL['submit train']}"
            reader.type(f"{trained} --wait")
            tokens = next((reader.folder / "store" / "tokens").iterdir()).name
            reader.meant |= {"--sae NAME": "--sae own", "export NAME FOLDER": "export own exported-$RANDOM"}
            reader.meant |= {"push NAME": "push own", "import FOLDER": "import store/saes/own", "FOLDER": "own"}
            reader.meant |= {"TOKENS": f"{tokens} --name features-$RANDOM", "ID": "last"}
            yield reader
        finally:
            reader.end()
            shutil.rmtree(reader.folder, ignore_errors=True)


@pytest.mark.parametrize("document", IN_BLOCKS, ids=lambda path: path.name)
def test_every_command_in_a_block_does_what_it_says(reader: Reader, document: Path) -> None:
    reader.type("queue resume --all")
    for line in commands_in_blocks(document):
        if line.text.startswith("mistudio workers start") and not line.is_usage:
            reader.type("workers stop --all --now")
        reader.follow(line)
    reader.type("queue resume --all")  # starts Redis where the last command has stopped it
    jobs = reader.read("jobs ls")["jobs"]
    assert [job for job in jobs if job["state"] == "failed" and job["kind"] != "cleanup"] == []
    for job in jobs:
        if job["state"] in ("queued", "waiting", "running"):
            reader.type(f"jobs cancel {job['id']}", code=None)
    reader.type("workers stop --all --now")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_named_in_a_sentence_is_one(document: Path) -> None:
    program = typer.main.get_command(app)
    for line in commands_in_sentences(document):
        words = [word for word in line.text.split()[1:] if word not in ("--help",)]
        assert parses(program, words), f"{line.where}: {line.text}"


def parses(command: Any, words: list[str]) -> bool:
    """Whether the program has such a command with such flags; arguments may be left out."""
    parent = command.context_class(command)
    while hasattr(command, "get_command") and words and not words[0].startswith("-"):
        found = command.get_command(parent, "download" if words[0] in ("KIND", "nap") else words[0])
        if found is None:
            return False
        command, words = found, words[1:]
    flags = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    return {word for word in words if word.startswith("--")} <= flags | {"--ticks"}  # of a kind that examples are of
