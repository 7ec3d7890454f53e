"""What the documents say is true: commands parse, links lead somewhere, examples load and run."""

import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import bench_agents
import doc_tables
import pytest

from inframind.agents import load_evaluation
from inframind.agents.training_file import load_training
from inframind.cli import main
from inframind.cli.experiment import Experiment, load_experiment
from inframind.cli.main import build_parser
from inframind.sim import load_pool, load_server
from inframind.sim.outcomes import OutcomeModel

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = ROOT / "docs" / "examples"
EXPERIMENTS = [path for path in sorted(EXAMPLES.glob("*.toml")) if "workload" in tomllib.loads(path.read_text())]

in_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> Iterator[str]:
    """Every command line in a document, and in the comments of an example."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        yield from (line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("inframind"))
        yield from (span for span in re.findall(r"`(inframind [^`\n]+)`", text) if "EXPERIMENT" not in span)
    for example in EXAMPLES.glob("*.toml"):
        yield from re.findall(r"^#\s+(inframind .*)$", example.read_text(encoding="utf-8"), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_in_the_documents_parses(command: str) -> None:
    """A command that is only named, such as ``inframind sim verify``, must at least exist."""
    words = shlex.split(command, comments=True)[1:]
    name = [word for word in words[:2] if re.fullmatch("[a-z]+", word)]
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as exit_:
        build_parser().parse_args([*name, "--help"])
    assert exit_.value.code == 0
    assert f"usage: inframind {' '.join(name)}" in printed.getvalue()

    if len(words) > len(name):
        build_parser().parse_args(words)


def test_the_commands_that_made_the_tables_of_trainings_parse() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    found = re.findall(r"`python tests/support/bench_agents\.py ([^`]+)`", text)
    asked = [bench_agents.build_parser().parse_args(shlex.split(words)) for words in found]

    assert [(each.table, each.set) for each in asked] == [
        ("ablations", ["batch.simulations=4"]),
        ("transfer", []),
        ("paper", ["batch.simulations=4"]),
    ]


@in_each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page

        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", [*PAGES, *sorted(EXAMPLES.glob("*.toml"))], ids=lambda path: path.name)
def test_every_file_of_the_repository_that_is_named_exists(page: Path) -> None:
    """A path that begins with one of its folders."""
    packages = (path.parent.name for path in ROOT.glob("*/__init__.py"))
    folders = "|".join(("docs", "notebooks", "tests", *packages))
    named = re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]*\w\.\w+", page.read_text(encoding="utf-8"))

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_document_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", README.read_text(encoding="utf-8")))

    assert linked == {str(page.relative_to(ROOT)) for page in PAGES if page.parent.name == "docs"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_example_loads(path: Path) -> None:
    experiment, _ = load_experiment(path, [])

    assert isinstance(experiment, Experiment)


def test_the_examples_are_all_tested() -> None:
    assert load_server(EXAMPLES / "server.toml").name == "llama-8b"
    assert len(load_pool("pool.toml", EXAMPLES).servers) == 2
    assert {path.name for path in EXAMPLES.glob("*.toml")} - {path.name for path in EXPERIMENTS} == {
        "evaluate.toml",
        "paper-masrouter.toml",
        "paper-moa.toml",
        "pool.toml",
        "server.toml",
        "train-evaluate.toml",
        "train.toml",
    }
    outcomes = OutcomeModel.shipped()
    assert load_training(EXAMPLES / "train.toml", [], outcomes)[0].preset == "default"
    for name in ("evaluate", "paper-masrouter", "paper-moa", "train-evaluate"):
        assert load_evaluation(EXAMPLES / f"{name}.toml", [], outcomes)[0].num_queries > 0


def test_a_synthetic_example_runs(tmp_path: Path) -> None:
    overrides = ["--set", "workload.duration_s=10", "--set", "loads=[1]"]

    assert main(["simulate", str(EXAMPLES / "bursts.toml"), "-o", str(tmp_path / "run"), *overrides]) == 0


def test_the_experiment_in_the_readme_loads(tmp_path: Path) -> None:
    (block,) = blocks(README, "toml")
    path = tmp_path / "experiment.toml"
    path.write_text(block)

    assert load_experiment(path, [])[0].loads == (0.5, 1.0, 1.5)


def test_the_python_in_the_readme_prints_what_stands_below_it() -> None:
    (code,) = blocks(README, "python")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "README.md", "exec"), {})

    assert printed.getvalue() == blocks(README, "text")[1]


def test_the_readme_shows_the_demo_as_it_is() -> None:
    """Its policies at its rates. What they came to takes minutes: `make demo`."""
    demo = tomllib.loads((ROOT / "cli" / "data" / "demo-evaluate.toml").read_text(encoding="utf-8"))
    rows = [
        re.findall(r"[^\s│┃]+", line) for line in blocks(README, "text")[0].splitlines() if line.startswith(("│", "┃"))
    ]
    names = [Path(entry).parts[-2] if "/" in entry else entry for entry in demo["policies"]]

    assert rows[0] == ["policy", *(f"{rate:g}" for rate in demo["rates_per_min"])]
    assert [row[0] for row in rows[1:]] == names


def test_the_tables_of_files_are_those_of_the_code() -> None:
    """If this fails: python tests/support/doc_tables.py."""
    page = doc_tables.PAGE.read_text(encoding="utf-8")

    assert doc_tables.named(page) == doc_tables.SECTIONS.keys() | doc_tables.SCHEMAS.keys()
    assert page == doc_tables.filled(page)
    page = doc_tables.TRAINING_PAGE.read_text(encoding="utf-8")
    assert doc_tables.named(page) == doc_tables.TRAINING_SECTIONS.keys()
    assert page == doc_tables.filled(page)
