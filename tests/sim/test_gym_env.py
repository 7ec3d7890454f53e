"""The Gymnasium environment: its contract, that it is the simulator, and what a step's reward and cost count."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import seeding
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from policies import FixedPlan, RoundRobin

from inframind.agents import Cell, Evaluation
from inframind.agents.evaluation import arrivals
from inframind.sim import PoolSection, simulate_workflows
from inframind.sim.gym_env import ID, LIMIT, ExecutorEnv
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import Budgets, ConfigError
from inframind.workflows import ROLE_NAMES, SERVER_FEATURES, Arrived, CallRecord, ControllerOptions

ROOT = Path(__file__).parents[2]
LLMS = ("Llama-3.2-3B-Instruct", "Llama-3.1-8B-Instruct")
NUM_STRATEGIES = 3


def pool(step_s: Sequence[float] = (0.01, 0.02), **server: Any) -> PoolSection:
    """Servers that take so long for each token, two requests at a time; ``server`` is for the last of them."""
    scheduler = {"max_num_seqs": 2, "num_blocks": 4000, "max_model_len": 16384, "async_scheduling": False}
    step = {"prefill_token_s": 0.0, "decode_s": 0.0}
    servers = [
        {"name": f"s{index}", "model": model, "scheduler": scheduler, "step_time": step | {"fixed_s": seconds}}
        for index, (model, seconds) in enumerate(zip(LLMS, step_s, strict=False))
    ]
    servers[-1] |= server
    return PoolSection.model_validate({"servers": servers})


@pytest.fixture(scope="module")
def shipped() -> OutcomeModel:
    return OutcomeModel.shipped()


Make = Callable[..., ExecutorEnv]


@pytest.fixture
def make(shipped: OutcomeModel) -> Make:
    """An environment on the tiny pool, unless asked for otherwise."""

    def make(section: PoolSection | None = None, **options: Any) -> ExecutorEnv:
        return ExecutorEnv(section or pool(), **{"num_queries": 20, "outcomes": shipped} | options)

    return make


def in_turn(env: ExecutorEnv) -> Iterator[int]:
    """What ``RoundRobin`` chooses."""
    for turn in count():
        servers = np.flatnonzero(env.action_masks()[::NUM_STRATEGIES])
        yield int(servers[turn % len(servers)]) * NUM_STRATEGIES + turn % NUM_STRATEGIES


Step = tuple[dict[str, Any], float, bool, bool, dict[str, Any]]


def episode(env: ExecutorEnv, seed: int | None = None) -> list[Step]:
    """All steps of an episode, the first being the reset's."""
    features, info = env.reset(seed=seed)
    steps: list[Step] = [(features, 0.0, False, False, info)]
    for action in in_turn(env):
        steps.append(env.step(np.int64(action)))
        if steps[-1][2] or steps[-1][3]:
            return steps
    raise AssertionError


def test_the_environment_passes_gymnasiums_checks() -> None:
    """Any warning would fail the test. All defaults but the length, as ``gymnasium.make`` gives it."""
    env = gymnasium.make(ID, num_queries=30)

    check_env(env.unwrapped)
    assert env.unwrapped.spec is not None
    assert env.unwrapped.spec.id == "inframind/Executor-v0"
    assert env.action_space == gymnasium.spaces.Discrete(5 * 3)
    assert env.observation_space["latency_s"].shape == (5, 3)
    assert env.observation_space["servers"].shape == (5, len(SERVER_FEATURES))


def test_the_rest_does_without_gymnasium() -> None:
    """No other module of the packages imports it, or this one."""
    imports = re.compile(r"^\s*(from|import) +(gymnasium|\.gym_env|inframind\.sim\.gym_env)", re.MULTILINE)
    packages = [ROOT / name for name in ("traces", "workflows", "sim", "live", "agents", "calibration", "cli")]
    modules = [path for package in packages for path in package.rglob("*.py")]

    assert [path.name for path in modules if imports.search(path.read_text(encoding="utf-8"))] == ["gym_env.py"]


def arrivals_of(seed: int, shipped: OutcomeModel, **options: Any) -> tuple[int, list[Arrived]]:
    """The seed that ``reset(seed)`` draws after the rate, and what an evaluation of that seed is asked."""
    rng = seeding.np_random(seed)[0]
    rng.choice([100.0])
    cell = Cell("random", "edf", 100.0, None, int(rng.integers(2**31)))
    return cell.seed, arrivals(Evaluation(part="train", **options), cell, shipped.bank)


def test_an_episode_is_a_run_of_the_simulator(make: Make, shipped: OutcomeModel) -> None:
    """The same choices, and query by query the same ends."""
    env = make(num_queries=60, domains=("math",), scheduler="edf-late-last", drain=True)
    told = {each["workflow_id"]: each for step in episode(env, 7) for each in step[4]["ended"]}

    seed, arrived = arrivals_of(7, shipped, num_queries=60, domains=("math",))
    run = simulate_workflows(
        [server.options(policy="priority") for server in pool().servers],
        arrived,
        FixedPlan("IO", "MathSolver"),
        RoundRobin(),
        shipped,
        options=ControllerOptions(priority="edf-late-last"),
        seed=seed,
    ).workflows.set_index("workflow_id")
    assert len(told) == 60
    for name, each in told.items():
        assert each["latency_s"] == run["latency_s"][name]
        assert each["tier_s"] == run["budget_s"][name]
        assert (each["correct"], each["on_time"]) == (run["correct"][name], run["on_time"][name])
    assert 0 < run["on_time"].mean() < 1


@pytest.mark.parametrize("part", ["train", "test"])
def test_no_llm_is_lucky_with_a_train_question_for_longer_than_an_episode(make: Make, part: str) -> None:
    """By default whoever learns meets what the project's own training does, and whoever is judged what lasts."""
    by_default, by_seed, lasting = (
        [
            step[1]
            for step in episode(make(num_queries=60, domains=("math",), part=part, drain=True, outcomes=outcomes), 7)
        ]
        for outcomes in (None, OutcomeModel.shipped(luck_by_seed=True), OutcomeModel.shipped())
    )

    assert by_default == (by_seed if part == "train" else lasting)
    assert by_seed != lasting


def test_every_query_counts_once_and_in_the_step_in_which_it_ends(make: Make) -> None:
    steps = episode(make(num_queries=60, drain=True), 1)
    ended = [each for step in steps for each in step[4]["ended"]]

    assert sorted(each["workflow_id"] for each in ended) == sorted(f"q{index}" for index in range(60))
    for _, reward, _, _, info in steps:
        assert reward == sum(each["correct"] and each["on_time"] for each in info["ended"])
        assert info["cost"] == sum(not each["on_time"] for each in info["ended"])
    assert sum(step[1] for step in steps) > 0
    assert sum(step[4]["cost"] for step in steps) > 0


def test_a_workflow_ends_between_two_decisions(make: Make) -> None:
    """With one call each, from its decision on: the end is told with the next decision that is not before it."""
    steps = episode(make(num_queries=30, drain=True), 2)
    asked_at = {step[4]["workflow_id"]: step[4]["t"] for step in steps[:-1]}
    for before, after in pairwise(steps):
        for each in after[4]["ended"]:
            end_s = asked_at[each["workflow_id"]] + each["latency_s"]
            assert before[4]["t"] - 1e-9 <= end_s
            assert end_s <= after[4].get("t", np.inf) + 1e-9


def test_drained_the_episode_terminates_when_all_have_ended(make: Make) -> None:
    """There is no decision to look at any more."""
    *_, (features, _, terminated, truncated, info) = episode(make(drain=True), 0)

    assert (terminated, truncated) == (True, False)
    assert not any(np.any(values) for values in features.values())
    assert info.keys() == {"cost", "ended"}


def test_undrained_the_episode_is_truncated_at_the_last_arrival(make: Make) -> None:
    """Its last observation is of the last query, before whose first call others are still on their way."""
    env = make()
    steps = episode(env, 0)
    features, _, terminated, truncated, info = steps[-1]

    assert (terminated, truncated) == (False, True)
    assert info["workflow_id"] == "q19"
    assert features["remaining_s"] == features["budget_s"] == info["tier_s"]
    assert sum(len(step[4]["ended"]) for step in steps) < 20
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(np.int64(0))


def test_equal_seeds_and_actions_give_equal_episodes(make: Make) -> None:
    env = make()
    first, next_one, first_again, next_again, other = (episode(env, seed) for seed in (3, None, 3, None, 4))

    assert_equal_episodes(first, first_again)
    assert_equal_episodes(next_one, next_again)
    assert first[0][4] != other[0][4]
    assert first[0][4] != next_one[0][4]


def assert_equal_episodes(one: list[Step], other: list[Step]) -> None:
    assert [step[1:] for step in one] == [step[1:] for step in other]
    for (features, *_), (others, *_) in zip(one, other, strict=True):
        for name, values in features.items():
            assert_array_equal(values, others[name])


def test_a_decision_by_hand(make: Make, shipped: OutcomeModel) -> None:
    """The first query meets idle servers: its latency is its tokens at 10 and 20 ms each."""
    env = make()
    features, info = env.reset(seed=0)
    query = arrivals_of(0, shipped, num_queries=20)[1][0].query
    tokens = shipped.expected_tokens(query.domain, query.question)[[shipped.models.index(name) for name in LLMS]]
    columns = [shipped.strategies.index(name) for name in ("Flash", "Concise", "DeepThink")]

    assert info["workflow_id"] == "q0"
    assert_array_equal(features["query"], shipped.bank.embedding[query.embedding])
    assert ROLE_NAMES[features["role"]] in {"MathSolver", "ProgrammingExpert", "KnowledgeExpert"}
    assert features["budget_s"] == features["remaining_s"] == np.float32(query.budget_s)
    assert features["prompt_tokens"] > query.prompt_tokens
    assert features["latency_s"] == pytest.approx(tokens[:, columns] * np.array([[0.01], [0.02]]), rel=1e-6)
    assert_array_equal(features["servers"][:, SERVER_FEATURES.index("is_open")], [1, 1])
    assert_array_equal(features["servers"][:, SERVER_FEATURES.index("in_flight")], [0, 0])
    assert features in env.observation_space


def test_own_calls_are_seen_at_once(make: Make) -> None:
    """Three calls to the slow server before any can have ended: at 10,000 queries a minute."""
    env = make(rates_per_min=(10_000.0,), poll_s=100.0)
    env.reset(seed=0)
    features = [env.step(np.int64(3))[0] for _ in range(3)][-1]

    assert_array_equal(features["servers"][:, SERVER_FEATURES.index("since_poll")], [0, 3])
    assert features["latency_s"][1, 0] > features["latency_s"][0, 0]


class Predicted:
    """Far too long for the space."""

    def latency_map(
        self, prompt_tokens: int, running: Sequence[int], waiting: Sequence[int], embedding: object
    ) -> NDArray[np.float64]:
        return np.full((2, 3), 1e9)


def test_predictors_come_first_and_are_cut_at_the_bounds(make: Make) -> None:
    env = make(latency=Predicted())
    features, _ = env.reset(seed=0)

    assert (features["latency_s"] == LIMIT).all()
    assert features in env.observation_space


def test_the_planner_says_what_is_asked(make: Make) -> None:
    """A chain of two: two decisions a workflow, the second when the first call has ended."""
    env = make(planner=FixedPlan("Chain", "MathSolver+Inspector"), domains=("math",), num_queries=5, drain=True)
    asked: dict[str, list[str]] = {}
    for features, *_, info in episode(env, 0)[:-1]:
        asked.setdefault(info["workflow_id"], []).append(ROLE_NAMES[features["role"]])

    assert asked == {f"q{index}": ["MathSolver", "Inspector"] for index in range(5)}


def test_a_server_that_refuses_a_call_is_masked_when_it_is_tried_again(make: Make) -> None:
    """The second one answers 503 to everything."""
    env = make(pool(max_num_queued_reqs=0))
    env.reset(seed=0)
    assert env.action_masks().all()
    *_, info = env.step(np.int64(3))

    assert info["workflow_id"] == "q0"
    assert env.action_masks().tolist() == [True] * 3 + [False] * 3
    with pytest.raises(ConfigError, match=r"action 4: server 1 \(s1\) is closed; see action_masks\(\)"):
        env.step(np.int64(4))
    with pytest.raises(ConfigError, match="action 6 must be a whole number in 0 to 5"):
        env.step(6)  # type: ignore[arg-type]
    assert env.step(np.int64(0))[4]["workflow_id"] == "q1"


def test_rates_are_drawn_for_each_episode(make: Make) -> None:
    """The second arrival comes within a fraction of a second, or after hours."""
    env = make(rates_per_min=(0.01, 10_000.0))
    second_at = []
    for seed in range(10):
        env.reset(seed=seed)
        second_at.append(env.step(np.int64(0))[4]["t"])

    assert {t > 1.0 for t in second_at} == {True, False}


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ExecutorEnv(rates_per_min=(0.0,), num_queries=0, domains=("maths",), scheduler="none")

    assert list(caught.value.problems) == [
        "rates_per_min ([0.0]) must be numbers above 0, at least one",
        "num_queries (0) must be at least 1",
        "domains (['maths']) must be of math, code, qa, at least one",
        "scheduler ('none') must be one of fcfs, edf, edf-late-last, least-slack",
    ]


def test_an_llm_without_outcomes_is_a_mistake(make: Make) -> None:
    with pytest.raises(ConfigError, match="no outcome data for model 'GPT-5'"):
        make(pool(model="GPT-5"))


def test_the_documents_example_runs_and_its_options_are_all_there_are() -> None:
    text = (ROOT / "docs" / "gymnasium.md").read_text(encoding="utf-8")
    example = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[0]
    end: dict[str, Any] = {}
    exec(compile(example, "gymnasium.md", "exec"), end)
    options = re.findall(r"^\| `(\w+)` \|", text.partition("## Options")[2], re.MULTILINE)

    assert (end["terminated"], end["truncated"], end["info"]["workflow_id"]) == (False, True, "q99")
    assert options == list(inspect.signature(ExecutorEnv).parameters)


class SameQuality(OutcomeModel):
    """All calls write 100 tokens, all answers are right."""

    def output_tokens(
        self, domain: str, question: int, model: str, strategy: str, role: str, slot: int, seed: int
    ) -> int:
        return 100

    def answer_correct(
        self, domain: str, question: int, topology: str, role_set: str, calls: Sequence[CallRecord], seed: int
    ) -> bool:
        return True


def test_maskable_ppo_learns_to_avoid_a_server_that_is_too_slow() -> None:
    """1 s a call on the first server, 100 s on the second, 20 s to spend: who draws at random is late half the time."""
    sb3_contrib = pytest.importorskip("sb3_contrib", reason="needs the extra sb3: pip install 'inframind-router[sb3]'")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    shipped = OutcomeModel.shipped()
    options = {
        "pool": pool((0.01, 1.0)),
        "outcomes": SameQuality(shipped._parameters, shipped.bank),
        "rates_per_min": (20.0,),
        "num_queries": 50,
        "budgets": Budgets(tiers_s=(20.0,)),
    }
    training = VecNormalize(DummyVecEnv([lambda: ExecutorEnv(**options)]), norm_obs_keys=["latency_s", "servers"])
    model = sb3_contrib.MaskablePPO(
        "MultiInputPolicy", training, n_steps=256, n_epochs=4, gamma=0.5, learning_rate=1e-3, seed=0
    )
    model.learn(3072)

    def learned(features: dict[str, Any], masks: NDArray[np.bool_]) -> int:
        action, _ = model.predict(training.normalize_obs(features), deterministic=True, action_masks=masks)
        return int(action)

    rng = np.random.default_rng(0)
    env = ExecutorEnv(**options, drain=True)
    at_random = goodput(env, lambda _, masks: int(rng.choice(np.flatnonzero(masks))))
    assert at_random == pytest.approx(0.5, abs=0.1)
    assert goodput(env, learned) > 0.9


def goodput(env: ExecutorEnv, act: Callable[[dict[str, Any], NDArray[np.bool_]], int], num_episodes: int = 5) -> float:
    """Share of the queries of drained episodes."""
    rewards, num_ended = 0.0, 0
    for seed in range(num_episodes):
        features, _ = env.reset(seed=1000 + seed)
        terminated = False
        while not terminated:
            features, reward, terminated, _, info = env.step(np.int64(act(features, env.action_masks())))
            rewards += reward
            num_ended += len(info["ended"])
    return rewards / num_ended
