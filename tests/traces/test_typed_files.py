from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from inframind.traces.mistakes import ConfigError
from inframind.traces.typed_files import Section, load_toml


class Scheduler(Section):
    max_num_seqs: int = Field(default=256, ge=1)
    """Most requests in the batch."""
    policy: Literal["fcfs", "priority"] = "fcfs"


class Server(Section):
    name: str
    scheduler: Scheduler = Scheduler()
    sizes: tuple[int, ...] = (1, 2)


class Poisson(Section):
    kind: Literal["poisson"]
    rate_per_min: float = Field(gt=0)


class Gamma(Section):
    kind: Literal["gamma"]
    rate_per_min: float = Field(gt=0)
    cv: float = Field(gt=0)


Arrivals = Annotated[Poisson | Gamma, Field(discriminator="kind")]


class Window(Section):
    start_s: float = 0
    end_s: float = 10

    @model_validator(mode="after")
    def _in_order(self) -> "Window":
        if self.end_s < self.start_s:
            raise ValueError(f"end_s ({self.end_s:g}) must be at least start_s ({self.start_s:g})")
        return self


class Experiment(Section):
    seed: int = 0
    lr: float = 3e-4
    title: str = ""
    servers: tuple[Server, ...] = ()
    arrivals: Arrivals | None = None
    phases: tuple[Arrivals, ...] = ()
    window: Window = Window()
    tiers: dict[str, Window] = Field(default_factory=dict)
    extra: int | str = 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str) -> Experiment:
    Path("x.toml").write_text(text, encoding="utf-8")
    return load_toml("x.toml", Experiment, overrides)


def problems(text: str, *overrides: str) -> list[str]:
    """Return the lines of the message below its headline."""
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    headline, *lines = str(caught.value).split("\n  ")
    assert headline == f"x.toml: {len(lines)} problem{'' if len(lines) == 1 else 's'}"
    return lines


pytestmark = pytest.mark.usefixtures("folder")


def test_a_good_file_becomes_the_model_with_toml_numbers_and_arrays_for_tuples() -> None:
    loaded = load('lr = 3e-4\nseed = 1_000\n[[servers]]\nname = "a"\nsizes = [4, 8]\n')

    assert loaded == Experiment(seed=1000, servers=(Server(name="a", sizes=(4, 8)),))


def test_every_mistake_of_a_file_is_reported_at_once() -> None:
    text = """
        seed = "three"
        lr = nan
        sed = 1
        [[servers]]
        name = "a"
        [[servers]]
        [[servers]]
        name = "c"
        scheduler = { max_num_seq = 8, max_num_seqs = 0, policy = "priorty" }
        [arrivals]
        kind = "poison"
        [[phases]]
        kind = "gamma"
        rate_per_min = -1
        [[phases]]
        rate_per_min = 1
        [window]
        start_s = 20
    """

    assert problems(text) == [
        "seed: must be a valid integer, got 'three'",
        "lr: must be a finite number, got nan",
        "servers[1].name: missing",
        "servers[2].scheduler.max_num_seqs: must be greater than or equal to 1, got 0",
        "servers[2].scheduler.policy: 'priorty' is not one of 'fcfs', 'priority'; did you mean 'priority'?",
        "servers[2].scheduler.max_num_seq: unknown key; did you mean 'max_num_seqs'?",
        "arrivals.kind: 'poison' is not one of 'poisson', 'gamma'; did you mean 'poisson'?",
        "phases[0].rate_per_min: must be greater than 0, got -1",
        "phases[0].cv: missing",
        "phases[1].kind: missing; choose one of 'poisson', 'gamma'",
        "window: end_s (10) must be at least start_s (20)",
        "sed: unknown key; did you mean 'seed'?",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed = true", "seed: must be a valid integer, got true"),
        ('seed = "4"', "seed: must be a valid integer, got '4'"),
        ("seed = 1.5", "seed: must be a valid integer, got 1.5"),
        ("lr = inf", "lr: must be a finite number, got inf"),
        ("servers = 3", "servers: must be a valid array, got 3"),
        ("window = 3", "window: must be an object, got 3"),
        ("tiers.slow.start_s = 99", "tiers.slow: end_s (10) must be at least start_s (99)"),
        ("tiers.slow.strt_s = 9", "tiers.slow.strt_s: unknown key; did you mean 'start_s'?"),
        ("window.colour = 9", "window.colour: unknown key; known: end_s, start_s"),
        ("title = 2024-01-02", "title: dates are not used here; got 2024-01-02"),
        ("seed = 07:32:00", "seed: dates are not used here; got 07:32:00"),
        (
            'arrivals = { kind = "gamma", cv = 1, rate_per_min = 1, rate_per_mn = 1 }',
            "arrivals.rate_per_mn: unknown key; did you mean 'rate_per_min'?",
        ),
        ("lr = 1\nseed = ?", "not valid TOML: Invalid value (at line 2, column 8)"),
    ],
)
def test_one_mistake_is_one_line_with_place_rule_and_value(text: str, line: str) -> None:
    assert problems(text) == [line]


def test_a_key_outside_its_section_is_shown_all_places_that_know_it() -> None:
    class Team(Section):
        planner: Server = Server(name="p")
        executor: Server | None = None

    class Study(Section):
        teams: tuple[Team, ...] = ()
        team: Team = Team()

    Path("x.toml").write_text("max_num_seqs = 1\nteam.sizes = [1]\n[[teams]]\nplanner.policy = 'fcfs'\n")

    with pytest.raises(ConfigError) as caught:
        load_toml("x.toml", Study)

    assert set(str(caught.value).split("\n  ")[1:]) >= {
        "max_num_seqs: unknown key; it belongs into [team.planner.scheduler] or [team.executor.scheduler]",
        "team.sizes: unknown key; it belongs into [team.planner] or [team.executor]",
        "teams[0].planner.policy: unknown key; it belongs into [teams.planner.scheduler]",
    }


def test_a_value_that_fits_no_member_of_an_untagged_union_is_reported_at_its_own_place() -> None:
    assert problems("extra = 1.5") == [
        "extra: must be a valid integer, got 1.5",
        "extra: must be a valid string, got 1.5",
    ]


def test_a_file_that_cannot_be_read_is_one_clear_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^none.toml: 1 problem\n  cannot be read: No such file"):
        load_toml("none.toml", Experiment)
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        load_toml(folder, Experiment)
    Path("latin.toml").write_bytes(b'title = "\xe9"')
    with pytest.raises(ConfigError, match=r"not UTF-8 text: .* at byte 9"):
        load_toml("latin.toml", Experiment)


def test_overrides_replace_and_add_values_and_may_leave_out_quotes() -> None:
    text = '[[servers]]\nname = "a"\n'
    overrides = ("seed=8", "lr = 3e-4", "servers[0].name=b-2", "servers[0].scheduler.policy=priority")

    loaded = load(text, *overrides, 'arrivals={kind="gamma", rate_per_min=1, cv=2}', "arrivals.cv=3")

    assert loaded.seed == 8
    assert loaded.servers == (Server(name="b-2", scheduler=Scheduler(policy="priority")),)
    assert loaded.arrivals == Gamma(kind="gamma", rate_per_min=1, cv=3)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed", "override 'seed': must look like section.key=value"),
        ("a b=1", "override 'a b=1': must look like section.key=value"),
        ("seed=1,2", "override 'seed=1,2': the right side is not a TOML value"),
        ("seed=", "override 'seed=': the right side is not a TOML value"),
        ("seed=1\nlr=2", "override 'seed=1\\nlr=2': the right side is not a TOML value"),
        ("seed.x=1", "override 'seed.x=1': seed has no 'x' to set"),
        ("servers[0].name=b", "override 'servers[0].name=b': servers[0] does not exist"),
        ("seed=true", "seed: must be a valid integer, got true"),
        ("window.end=1", "window.end: unknown key; did you mean 'end_s'?"),
    ],
)
def test_a_wrong_override_is_reported_as_a_mistake_of_the_file_is(override: str, line: str) -> None:
    assert problems("seed = 1\nservers = []\n", override) == [line]


def test_mistakes_of_overrides_and_of_the_file_come_together() -> None:
    assert len(problems("sed = 1", "oops", "lr=fast")) == 3


def test_the_line_under_a_field_is_its_description() -> None:
    assert Scheduler.model_fields["max_num_seqs"].description == "Most requests in the batch."


@given(seed=st.integers(-(2**62), 2**62), lr=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_out_as_they_were_written(seed: int, lr: float) -> None:
    text = f"seed = {seed}\nlr = {lr!r}\n"
    path = Path("numbers.toml")
    path.write_text(text)

    assert load_toml(path, Experiment) == Experiment(seed=seed, lr=lr)
