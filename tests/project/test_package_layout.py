"""The listing shows the plan: few loose modules, small rooms, each on a floor, and no file imports in a circle."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("tasks", "mistudio_cli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
CONTRACTS = PROJECT["importlinter"]["contracts"]

MOST_IN_A_ROOM = 13
#: Where one file is one entry, and one more entry is one more file.
REGISTRIES = {"mistudio_cli/commands", "tasks/kinds", "tasks/sae/architectures"}


def modules_in(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.py") if not file.name.startswith("__")]


def rooms() -> Iterator[str]:
    """Every folder of modules, by its path from the root of the repository."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("__init__.py"):
            yield file.parent.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(("package", "most"), [("tasks", 6), ("mistudio_cli", 12)])
def test_few_modules_are_in_no_room(package: str, most: int) -> None:
    assert len(modules_in(ROOT / package)) <= most


def test_no_room_is_too_large_to_take_in_at_a_glance() -> None:
    large = {room: len(modules_in(ROOT / room)) for room in rooms() if room not in REGISTRIES}
    assert {room: count for room, count in large.items() if count > MOST_IN_A_ROOM} == {}


def test_every_module_stands_on_a_floor() -> None:
    floors = {
        (f"{container}." if container else "") + name.strip()
        for contract in CONTRACTS
        if contract["type"] == "layers"
        for container in contract.get("containers", [""])
        for layer in contract["layers"]
        for name in layer.replace("|", ":").split(":")
    }
    there = {
        f"{package}.{path.stem}"
        for package in PACKAGES
        for path in (ROOT / package).iterdir()
        if not path.name.startswith("__") and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert there - floors == set()


def test_contracts_pass_over_few_imports() -> None:
    assert all(len(contract.get("ignore_imports", [])) <= 3 for contract in CONTRACTS)


def test_the_wheel_has_every_room() -> None:
    there = {room.replace("/", ".") for room in rooms()}
    assert set(PROJECT["setuptools"]["packages"]) == there | {"mistudio_cli.profiles"}


def imported_at_once(tree: Iterable[ast.stmt]) -> Iterator[str]:
    """Names that a module imports when it is imported itself: `a.b` for both `import a.b` and `from a import b`."""
    for node in tree:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.dump(
            getattr(node, "test", node)
        ):
            yield from imported_at_once([*node.body, *getattr(node, "orelse", [])])


def test_no_file_imports_in_a_circle() -> None:
    names = {
        file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
    }
    imports = {}
    for name, file in names.items():
        wanted = set(imported_at_once(ast.parse(file.read_text()).body))
        found = {one if one in names else one.rpartition(".")[0] for one in wanted}
        imports[name] = {one for one in found if one in names and one != name}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as circle:
        pytest.fail(f"they import each other: {' -> '.join(circle.args[1])}")
