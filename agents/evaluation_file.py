"""Evaluation files: which policies are compared, and on what."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from inframind.sim import PoolSection, load_pool
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import RATES_PER_MIN, Budgets, ConfigError, NotEmpty, Section, load_toml
from inframind.traces.mistakes import did_you_mean
from inframind.workflows import DOMAINS, STRATEGIES, ControllerOptions

from .plans import PLANNERS, planner_mistakes
from .policies import BOUND, POLICIES, POLICY_FILE, TRAINED, is_folder, label_of, rule_of


class Discipline(NamedTuple):
    """In which order servers take calls."""

    policy: Literal["fcfs", "priority"]
    """vLLM's ``--scheduling-policy``."""
    priority: str
    """A key of ``workflows.PRIORITY_RULES``."""


SCHEDULERS: Mapping[str, Discipline] = {
    "fcfs": Discipline("fcfs", "none"),
    "edf": Discipline("priority", "edf"),
    "edf-late-last": Discipline("priority", "edf-late-last"),
    "least-slack": Discipline("priority", "least-slack"),
}
"""By name; the first is what others are compared with."""


def _known(kind: str, names: Mapping[str, object]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in names:
            raise _unknown(kind, name, names)
        return name

    return check


def _unknown(kind: str, name: str, names: Mapping[str, object], advice: str = "") -> ValueError:
    """The nearest name, or where none is near all of them and what else could be meant."""
    hint = did_you_mean(name, names) or f"; known: {', '.join(names)}{advice}"
    return ValueError(f"no {kind} has this name{hint}")


def _policy_entry(entry: str) -> str:
    if is_folder(entry):
        return entry
    name, planner = rule_of(entry)
    known = {**POLICIES, **TRAINED}
    if name not in known:
        raise _unknown("policy", name, known, f"; one of your own is named by its folder, with a slash: ./{entry}")
    if entry != name and name in POLICIES:
        _known("planner", dict.fromkeys(PLANNERS))(planner)
    return entry


PositiveFloat = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
PolicyEntry = Annotated[str, AfterValidator(_policy_entry)]
SchedulerName = Annotated[str, AfterValidator(_known("scheduler", SCHEDULERS))]
DomainName = Annotated[str, AfterValidator(_known("domain", DOMAINS))]
StrategyName = Annotated[str, AfterValidator(_known("strategy", STRATEGIES))]


class Evaluation(Section):
    """An evaluation: every policy under every scheduler at every rate with every seed."""

    name: str | None = None
    """Title of the report; by default what is compared."""
    pool: str = "l40s"
    """A shipped pool, or a pool file; a relative path starts at this file's folder."""
    policies: Annotated[tuple[PolicyEntry, ...], NotEmpty] = (*POLICIES, "quality-in-time@single", *TRAINED)
    """Who decides: a rule by its name, see docs/evaluation.md, with a planner of its own as ``NAME@single`` or
    ``NAME@mixed``; ``inframind``, the trained policy that is shipped; or one of your own by its folder, which has a
    slash (``runs/mine``, ``./mine``; relative to this file's) and is called by its own name in tables, but
    ``runs/mine/policy`` by its parent's."""
    predictors: str | None = None
    """Folder of trained latency predictors, relative to this file's: rules read their predictions. Without, those of
    the servers' step times."""
    schedulers: Annotated[tuple[SchedulerName, ...], NotEmpty] = ("fcfs", "edf", "edf-late-last")
    """In which order servers take calls: ``fcfs``, or by vLLM's priorities ``edf``, ``edf-late-last``,
    ``least-slack``."""
    rates_per_min: Annotated[tuple[PositiveFloat, ...], NotEmpty] = RATES_PER_MIN
    """Queries in a minute; they arrive by a Poisson process."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], NotEmpty] = (0, 1, 2, 3, 4)
    """Of arrivals, questions, budgets and outcomes. All policies of one seed meet the same ones."""
    budgets: Budgets = Budgets()
    """The queries' latency budgets, mixed in one run."""
    single_tier: bool = False
    """A run of its own for each budget, instead."""
    protocol: Literal["transient", "steady-state"] = "transient"
    """``transient``: ``num_queries`` come to idle servers, the run goes on until the last is answered, and all count.
    ``steady-state``: before them come ``warm_up_queries``, after them as many, so that the servers are as busy at the
    end; those do not count. A pool that is overloaded has no steady state."""
    num_queries: Count = 500
    """Queries that count, in each run."""
    warm_up_queries: Count = 250
    """Only with ``steady-state``."""
    domains: Annotated[tuple[DomainName, ...], NotEmpty] = ("math", "code", "qa")
    """Where questions come from, all alike."""
    part: Literal["test", "train", "all"] = "test"
    """Which questions of the bank: learned policies have seen ``train``."""
    planner: str = "mixed"
    """How queries are worked on, where a policy does not say: ``single`` (one agent answers at once), ``mixed``
    (topology and role set drawn for each query), or ``TOPOLOGY/ROLE_SET``."""
    strategy: StrategyName = "Concise"
    """How calls are prompted, where a policy does not say."""
    max_tokens: Count = 2048
    """Most tokens that a call may generate."""
    cancel_hopeless: bool = False
    """Whether a workflow is given up as soon as it is late."""
    answer_when_due: bool = True
    """Whether a workflow that would be late answers with the last message that it has, see docs/workflows.md."""
    call_timeout_s: PositiveFloat | None = None
    """After so long a call is given up: cancelled, not tried again, and its workflow goes on without it. Never by
    default."""
    max_parallel_calls: Count | None = None
    """Calls of one workflow in flight at once; no limit by default."""
    poll_s: Annotated[float, Field(ge=1e-3)] = 1.0
    """How often policies get to know the servers' gauges."""
    dead_reckoning: bool = True
    """Whether policies are told of their own calls since."""
    tasks: tuple[str, ...] = ()
    """What `inframind live replay` asks real servers, such as ``reasoning-gym:chain_sum,1,100``, ``humaneval`` or
    ``gsm8k:FILE``; of simulated runs only those of `inframind simulate EXPERIMENT.toml --tasks` look at it."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wrong = [
            f"{field}: a value occurs twice in {list(values)}"
            for field in ("policies", "schedulers", "rates_per_min", "seeds", "domains")
            for values in [getattr(self, field)]
            if len(set(values)) < len(values)
        ]
        wrong += self._called_alike()
        wrong += planner_mistakes("planner", self.planner, self.domains)
        if self.single_tier and self.budgets.weights is not None:
            wrong.append("budgets.weights mean nothing with single_tier")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def trained(self) -> tuple[str, ...]:
        """Labels of the trained policies, the shipped one among them."""
        return tuple(label_of(entry) for entry in self.policies if is_folder(entry) or entry in TRAINED)

    @property
    def rules(self) -> tuple[str, ...]:
        """Labels of what trained policies are measured by: all others, but for the one that knows the future."""
        return tuple(label for label in self.labels if label not in (*self.trained, BOUND))

    def controller_options(self, scheduler: str) -> ControllerOptions:
        """How the controller runs workflows under one of the schedulers."""
        return ControllerOptions(
            priority=SCHEDULERS[scheduler].priority,
            max_tokens=self.max_tokens,
            call_timeout_s=self.call_timeout_s,
            max_parallel_calls=self.max_parallel_calls,
            cancel_hopeless=self.cancel_hopeless,
            answer_when_due=self.answer_when_due,
            dead_reckoning=self.dead_reckoning,
        )

    def _called_alike(self) -> list[str]:
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        return [f"policies: two are called {label!r} in tables" for label in twice]

    @property
    def labels(self) -> tuple[str, ...]:
        """What the policies are called in tables."""
        return tuple(map(label_of, self.policies))

    def cells(self) -> Iterator["Cell"]:
        """All runs, one seed after the other: so a broken-off evaluation has whole seeds, and outcomes stay cached."""
        tiers = self.budgets.tiers_s if self.single_tier else (None,)
        for seed in self.seeds:
            for tier_s in tiers:
                for rate in self.rates_per_min:
                    for scheduler in self.schedulers:
                        for policy in self.labels:
                            yield Cell(policy, scheduler, rate, tier_s, seed)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of an evaluation."""

    policy: str
    """Its label."""
    scheduler: str
    rate_per_min: float
    tier_s: float | None
    """The budget of all queries; None where tiers are mixed."""
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        tier = "mixed" if self.tier_s is None else f"{self.tier_s:g}s"
        return f"{self.policy}.{self.scheduler}.{self.rate_per_min:g}.{tier}.{self.seed}"


def load_pool_with_outcomes(name: str, base: Path, outcomes: OutcomeModel) -> PoolSection:
    """A pool of LLMs that there are outcomes for; see ``sim.load_pool``.

    Raises
    ------
    ConfigError
        With all the mistakes of its file, or each LLM without outcomes.
    """
    pool = load_pool(name, base)
    try:
        outcomes.check_models([server.model for server in pool.servers])
    except ConfigError as error:
        raise ConfigError(f"pool {name}", error.problems) from None
    return pool


def load_evaluation(path: Path, overrides: list[str], outcomes: OutcomeModel) -> tuple[Evaluation, PoolSection]:
    """The evaluation and its pool, checked against each other and the outcomes; its folders as absolute paths.

    Raises
    ------
    ConfigError
        With all the mistakes of one of the files.
    """
    evaluation = _with_absolute_folders(load_toml(path, Evaluation, overrides), path)
    return evaluation, load_pool_with_outcomes(evaluation.pool, path.parent, outcomes)


def _with_absolute_folders(evaluation: Evaluation, path: Path) -> Evaluation:
    """Worker processes, and later commands on the results, may run elsewhere."""

    def absolute(entry: str) -> str:
        return str((path.parent / entry).resolve())

    policies = tuple(absolute(entry) if is_folder(entry) else entry for entry in evaluation.policies)
    if wrong := [
        f"policies[{index}]: no trained policy is there: {entry} has no {POLICY_FILE}; paths start at the file's folder"
        for index, entry in enumerate(policies)
        if is_folder(entry) and not Path(entry, POLICY_FILE).is_file()
    ]:
        raise ConfigError(path, wrong)
    predictors = evaluation.predictors and absolute(evaluation.predictors)
    resolved = evaluation.model_copy(update={"policies": policies, "predictors": predictors})
    # "./policy" is called by the folder that this file lies in.
    if wrong := resolved._called_alike():
        raise ConfigError(path, wrong)
    return resolved
