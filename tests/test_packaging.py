"""What a wheel would hold, and what type checkers see: setup.cfg against the disk."""

import ast
import configparser
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
FOLDERS = dict(line.split(" = ") for line in SETUP["options"]["package_dir"].strip().splitlines())
PACKAGES = SETUP["options"]["packages"].split()
NO_SOURCES = {"build", "dist", "typings"}


def folder_of(package: str) -> Path:
    """Where a package lies: folder X at the top is imported as inframind.X."""
    return ROOT.joinpath(*package.split(".")[1:])


def python_files() -> list[Path]:
    """All of the repository's own, tests included."""
    return [
        path
        for top in ROOT.iterdir()
        if top.is_dir() and not top.name.startswith(".") and top.name not in NO_SOURCES
        for path in top.rglob("*.py")
    ]


def test_every_package_on_disk_is_listed() -> None:
    """A package that is not listed imports fine from a checkout, and is missing from the wheel."""
    on_disk = {
        "inframind." + ".".join(init.parent.relative_to(ROOT).parts)
        for folder in FOLDERS.values()
        for init in (ROOT / folder).rglob("__init__.py")
    }

    assert set(PACKAGES) == on_disk


def test_every_folder_with_packages_is_mapped() -> None:
    """A new top-level folder with an ``__init__.py`` needs its line in ``package_dir``."""
    on_disk = {init.parent.name for init in ROOT.glob("*/__init__.py")}

    assert set(FOLDERS.values()) == on_disk
    assert {name: f"inframind.{folder}" for name, folder in FOLDERS.items()} == {name: name for name in FOLDERS}


def test_every_data_file_is_in_the_wheel() -> None:
    """A file in a package that is neither Python nor matched by ``package_data`` would be left out."""
    patterns = SETUP["options.package_data"]
    for package in PACKAGES:
        folder = folder_of(package)
        globs = re.split(r"[,\s]+", patterns["*"] + " " + patterns.get(package, ""))
        shipped = {path for pattern in globs if pattern for path in folder.glob(pattern)}
        files = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        left_out = {path for path in files - shipped if path.suffix != ".py"}

        assert not left_out, package


@pytest.mark.parametrize("package", [name for name in SETUP["options.package_data"] if name != "*"])
def test_no_data_pattern_is_out_of_date(package: str) -> None:
    """Each pattern of ``package_data`` matches a file."""
    patterns = SETUP["options.package_data"][package].replace(",", " ").split()

    assert [pattern for pattern in patterns if not any(folder_of(package).glob(pattern))] == []


def test_every_package_is_typed() -> None:
    """Without ``py.typed`` a user's type checker ignores the annotations."""
    assert [folder for folder in FOLDERS.values() if not (ROOT / folder / "py.typed").is_file()] == []


def test_type_checkers_see_every_folder() -> None:
    """A missing or broken link makes mypy check nothing and still report success."""
    linked = {link.name: link.resolve() for link in (ROOT / "typings" / "inframind").iterdir()}

    assert linked == {folder: ROOT / folder for folder in FOLDERS.values()}


def test_layers_and_coverage_know_every_folder() -> None:
    assert set(SETUP["importlinter"]["root_packages"].split()) == set(FOLDERS)
    assert set(SETUP["importlinter:contract:layers"]["layers"].replace("|", " ").split()) == set(FOLDERS)
    assert set(SETUP["coverage:run"]["source"].split()) == set(FOLDERS.values())


def test_nobody_imports_a_folder_by_its_bare_name() -> None:
    """From the repository's root ``import sim`` works, and loads a second copy of inframind.sim."""
    found = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            bare = [name for name in names if name.split(".")[0] in FOLDERS.values()]
            found += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}" for name in bare]

    assert found == []


def test_constraints_pin_every_direct_requirement() -> None:
    """What setup.cfg asks for is installed in one exact version in development and CI."""
    asked = SETUP["options"]["install_requires"] + SETUP["options.extras_require"]["dev"]
    names = {_normal(line.split()[0]) for line in asked.strip().splitlines() if line.strip()}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {_normal(line.partition("==")[0]) for line in lines}

    assert all("==" in line for line in lines)
    assert names <= pinned


def test_build_system_is_all_that_pyproject_holds() -> None:
    """Everything else is in setup.cfg and ruff.toml: nobody has to look in two places."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text()).keys() == {"build-system"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
