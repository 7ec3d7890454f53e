"""Training files: the world that agents are trained in, what they are, and how they learn."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from inframind.sim import PoolSection
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import Budgets, NotEmpty, Section, load_toml

from .constraint import ConstraintOptions
from .evaluation_file import Count, DomainName, PositiveFloat, SchedulerName, load_pool_with_outcomes
from .networks import NetworkOptions
from .plans import planner_mistakes

PRESETS = ("default", "theory", "reference")
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def _range(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise ValueError(f"must be [least, greatest], both above 0; got {list(values)}")
    return values


Range = Annotated[tuple[float, ...], AfterValidator(_range)]


class LoadOptions(Section):
    """What differs from one simulation to the next; each is drawn anew."""

    rates_per_min: Range = (10.0, 250.0)
    """Queries in a minute: least and greatest, log-uniform between them."""
    burstiness_cv: Range = (1.0, 2.0)
    """Coefficient of variation of the gaps between arrivals; 1 is Poisson."""
    pool_speed: Range = (0.9, 1.1)
    """All step times are divided by it, log-uniform; policies are not told."""
    random_budget_mix: bool = True
    """Whether each simulation has shares of the budget tiers of its own (Dirichlet), or those of ``budgets``."""
    embedding_noise: NotNegative = 0.0
    """Length of the noise added to each query's embedding, whose own length is 1, so that the training's questions are
    not learnt by heart. Without effect on networks with ``query = 0``."""
    queries: Count = 400
    """In one simulation, from idle servers to the last answer."""


class Learner(Section):
    """How a policy learns."""

    algorithm: Literal["ppo", "policy-gradient"] = "ppo"
    """Clipped surrogate, several passes; or ``log pi A``, one pass (REINFORCE, actor-critic)."""
    baseline: Literal["critic", "ema", "batch"] = "critic"
    """What is subtracted from the return: the critic's value, a moving average (theory, 8.2), or the batch's mean."""
    standardise: bool = True
    """Whether advantages are scaled to a standard deviation of 1."""
    trace: Share = 1.0
    """Lambda of generalised advantage estimates."""
    ema_rate: Share = 0.05
    """rho of the moving average."""
    learning_rate: PositiveFloat = 1e-3
    """Of Adam; falls linearly, see ``batch.last_rate``."""
    entropy: NotNegative = 0.02
    """Weight of the entropy at the beginning."""
    last_entropy: NotNegative = 0.002
    """At the end; linear between."""
    passes: Count = 3
    """Over each batch, with ``ppo``."""
    minibatch: Count = 1024
    """Decisions in one gradient step."""
    clip: PositiveFloat = 0.2
    """Of PPO's ratio."""
    max_kl: PositiveFloat = 0.03
    """PPO's passes end when the policy has moved so far."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are cut to this norm."""

    def entropy_at(self, progress: float) -> float:
        """Its weight when this share of the training is done."""
        return self.entropy + (self.last_entropy - self.entropy) * progress


class PlannerOptions(Section):
    """Who chooses topology and role set."""

    fixed: str = ""
    """``single``, ``mixed`` or ``TOPOLOGY/ROLE_SET``: a planner that does not learn. Empty: one that does."""
    mask_infeasible: bool = True
    """Whether plans are excluded whose latency floor is above the budget."""
    network: NetworkOptions = NetworkOptions()
    """What it reads, and how."""
    learner: Learner = Learner()
    """How it learns."""


class ExecutorOptions(Section):
    """Who chooses server and strategy."""

    network: NetworkOptions = NetworkOptions()
    """What it reads, and how."""
    learner: Learner = Learner()
    """How it learns."""


class CriticOptions(Section):
    """Values of reward and of cost."""

    shared: bool = False
    """Whether the value is a head on the executor's network, and its loss a part of the executor's (theory, 8.3). All
    keys below but ``value_weight`` are of a critic of its own."""
    value_weight: NotNegative = 0.5
    """c_V: weight of a shared critic's loss."""
    network: NetworkOptions = NetworkOptions()
    """Of both values."""
    knows_outcomes: bool = True
    """Whether it sees, in training, how many of each LLM's answers will be right; see `networks.SetCritic`."""
    learning_rate: PositiveFloat = 2e-3
    """Of Adam; falls linearly, see ``batch.last_rate``."""
    passes: Count = 3
    """Over each batch."""
    minibatch: Count = 1024
    """Decisions in one gradient step."""


class RewardOptions(Section):
    """What is earned, and how the constraint's price comes in."""

    kind: Literal["goodput", "quality"] = "goodput"
    """1 for a right answer in time (goodput), or for a right one (quality: theory, 6)."""
    executor_cost: Literal["workflow", "elapsed-over-remaining", "elapsed-over-budget"] = "workflow"
    """What a call costs: what its workflow does, L_k / b_rem (theory, 7.3), or L_k / beta (the authors' code)."""
    combine: Literal["advantages", "rewards"] = "advantages"
    """Two critics and (A_r - lambda A_c) / (1 + lambda), or the reward R - lambda C (theory, 7.3)."""


class CongestionOptions(Section):
    """Whether and how decisions are charged for what they take from others, see `inframind.agents.congestion`."""

    weight: NotNegative = 1.0
    """1: as estimated; 0: not at all."""
    learning_rate: PositiveFloat = 3e-3
    """Of Adam."""
    passes: Count = 4
    """Over each batch's arrivals."""


class BatchOptions(Section):
    """How much is simulated at a time."""

    iterations: Count = 80
    """Batches, and updates."""
    groups: Count = 2
    """Simulated side by side, in processes of their own where there are cores."""
    simulations: Count = 8
    """Of each group, in lock-step: their decisions are made in one pass of the networks."""
    last_rate: Share = 0.1
    """Share of each learning rate that is left at the end."""
    checkpoint_every: Count = 20
    """Iterations between checkpoints."""


class Training(Section):
    """One training."""

    name: str = "training"
    """Stands in the record of the policy."""
    preset: Literal["default", "theory", "reference"] = "default"
    """Where the values come from that this file does not give: ``default``; ``theory`` (every equation of the theory
    document); ``reference`` (what the InfraMind authors' code did in the end)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything: equal seeds, equal policies (on one machine)."""
    pool: str = "l40s"
    """A shipped pool, or a pool file; a relative path starts at this file's folder."""
    scheduler: SchedulerName = "edf-late-last"
    """In which order servers take calls."""
    budgets: Budgets = Budgets()
    """Tiers of budgets; each has a multiplier."""
    domains: Annotated[tuple[DomainName, ...], NotEmpty] = ("math", "code", "qa")
    """Where questions come from, all alike."""
    max_tokens: Count = 2048
    """Most tokens that a call may generate."""
    poll_s: Annotated[float, Field(ge=1e-3)] = 1.0
    """How often policies get to know the servers' gauges."""
    dead_reckoning: bool = True
    """Whether policies are told of their own calls since."""
    answer_when_due: bool = True
    """Whether a workflow that would be late answers with the last message that it has. Then no plan is infeasible;
    evaluate the policy with the same key of the evaluation's file."""
    predictors: str | None = None
    """Folder of trained latency predictors, relative to this file's: they make the latency map (theory, 4). Without,
    the servers' step times do."""
    load: LoadOptions = LoadOptions()
    """What differs from one simulation to the next."""
    planner: PlannerOptions = PlannerOptions()
    """Who chooses topology and role set."""
    executor: ExecutorOptions = ExecutorOptions()
    """Who chooses server and strategy."""
    critic: CriticOptions = CriticOptions()
    """What is expected."""
    reward: RewardOptions = RewardOptions()
    """What is earned."""
    congestion: CongestionOptions = CongestionOptions()
    """What is taken from others."""
    constraint: ConstraintOptions = ConstraintOptions()
    """What may be late."""
    batch: BatchOptions = BatchOptions()
    """How much is simulated."""

    @property
    def masks_plans(self) -> bool:
        """Whether a plan that cannot be carried out in time is excluded."""
        return self.planner.mask_infeasible and not self.answer_when_due

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or (name := given.get("preset", PRESETS[0])) not in PRESETS:
            return given
        text = (files(__package__) / "data" / f"{name}.toml").read_text(encoding="utf-8")
        # What comes from here counts as Python's, where a tuple is no list.
        merged: dict[str, Any] = _with_tuples(_merged(tomllib.loads(text), given))
        return merged

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wrong = []
        if self.planner.fixed:
            wrong += planner_mistakes("planner.fixed", self.planner.fixed, self.domains)
        if self.congestion.weight and min(self.planner.learner.trace, self.executor.learner.trace) < 1:
            wrong.append("learner.trace must be 1 with congestion.weight above 0")
        if self.reward.combine == "advantages":
            wrong += [
                f"{who}.learner.baseline ({learner.baseline!r}) must be 'critic' with reward.combine = 'advantages'"
                for who, learner in (("planner", self.planner.learner), ("executor", self.executor.learner))
                if learner.baseline != "critic"
            ]
            if self.reward.executor_cost != "workflow":
                wrong.append(
                    f"reward.executor_cost ({self.reward.executor_cost!r}) must be 'workflow' with reward.combine = "
                    "'advantages'"
                )
        if self.planner.network.kind != "set" and self.planner.network.system != "none":
            wrong.append("planner.network.system must be 'none' with planner.network.kind = 'flat' or 'dual'")
        if self.critic.shared:
            wrong += self._shared_mistakes()
        wrong += self._ignored()
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _ignored(self) -> list[str]:
        """Values that say something which nothing would heed."""
        plain, networks = NetworkOptions(), {"planner": self.planner.network, "critic": self.critic.network}
        ignored = {
            f"{who}.network.{key}": "it is of the executor alone"
            for who, network in networks.items()
            for key in ("heads", "prior")
            if getattr(network, key) != getattr(plain, key)
        }
        ignored |= {
            f"{who}.network.query": f"kind = {network.kind!r} reads the whole embedding; leave it at {plain.query}"
            for who, network in (networks | {"executor": self.executor.network}).items()
            if network.kind != "set" and network.query != plain.query
        }
        ignored |= {
            f"{who}.learner.ema_rate": "it needs baseline = 'ema'"
            for who, learner in (("planner", self.planner.learner), ("executor", self.executor.learner))
            if learner.baseline != "ema" and learner.ema_rate != Learner().ema_rate
        }
        return [f"{key} has no effect: {why}" for key, why in ignored.items()]

    def _shared_mistakes(self) -> list[str]:
        """The theory's critic values the reward of the executor's calls, and nothing else."""
        needed = {
            "executor.network.kind = 'flat' or 'dual'": self.executor.network.kind != "set",
            "reward.combine = 'rewards'": self.reward.combine == "rewards",
            "executor.learner.baseline = 'critic'": self.executor.learner.baseline == "critic",
            "planner.learner.baseline = 'ema' or 'batch'": self.planner.fixed != ""
            or self.planner.learner.baseline != "critic",
        }
        return [f"critic.shared needs {condition}" for condition, holds in needed.items() if not holds]


def load_training(path: Path, overrides: list[str], outcomes: OutcomeModel) -> tuple[Training, PoolSection]:
    """The training and its pool, checked against each other and the outcomes; its folder as an absolute path.

    Raises
    ------
    ConfigError
        With all the mistakes of one of the files.
    """
    training = load_toml(path, Training, overrides)
    if training.predictors:
        training = training.model_copy(update={"predictors": str((path.parent / training.predictors).resolve())})
    return training, load_pool_with_outcomes(training.pool, path.parent, outcomes)


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
