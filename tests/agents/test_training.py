"""Training as a whole: the same seed, the same policy, broken off or not, on one process or two."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from inframind.agents.bench_training import bench_training
from inframind.agents.training import Trainer, _world_of
from inframind.agents.training_file import load_training
from inframind.cli import main
from inframind.sim.outcomes import OutcomeModel

SMALL = """
name = "small"
domains = ["math"]
[batch]
iterations = 4
groups = 2
simulations = 1
checkpoint_every = 2
[load]
queries = 6
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing has broken off, on one process."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "small.toml").write_text(SMALL, encoding="utf-8")
    assert main(["train", str(folder / "small.toml"), "-o", str(folder / "run"), "--jobs", "1"]) == 0
    return folder / "run"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def weights(run: Path) -> dict[str, bytes]:
    tensors = load_file(run / "checkpoint" / "tensors.safetensors")
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def test_equal_seeds_make_equal_policies_and_jobs_do_not_matter(whole: Path, experiment: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    assert main(["train", str(experiment), "-o", str(two), "--jobs", "2"]) == 0

    assert weights(whole) == weights(two)
    lines = [(run / "metrics.jsonl").read_text(encoding="utf-8") for run in (whole, two)]
    assert lines[0] == lines[1]
    figures = json.loads(lines[0].splitlines()[-1])
    assert figures["iteration"] == 4
    assert {"goodput", "violation/10s", "multiplier/10s", "entropy/planner", "kl/executor"} <= set(figures)


def test_resumed_is_as_unbroken(
    whole: Path, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    stop_after(experiment, broken, iterations=3)

    told = capsys.readouterr().out
    assert "stopped with 3 of 4 iterations done; --resume goes on after the 2 of the last checkpoint" in told
    assert main(["train", str(experiment), "-o", str(broken), "--jobs", "1", "--resume"]) == 0

    assert weights(whole) == weights(broken)
    metrics = [(run / "metrics.jsonl").read_text(encoding="utf-8") for run in (whole, broken)]
    assert metrics[0] == metrics[1]


def stop_after(experiment: Path, run: Path, iterations: int) -> None:
    """Ctrl-C in the midst of an iteration, after the last checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        iterate = Trainer.iterate

        def stopped(self: Trainer) -> object:
            if self.done == iterations:
                raise KeyboardInterrupt
            return iterate(self)

        patch.setattr(Trainer, "iterate", stopped)
        assert main(["train", str(experiment), "-o", str(run), "--jobs", "1"]) == 130
    assert (run / "policy" / "policy.json").exists()


def test_stopped_before_the_first_checkpoint_it_says_that_there_is_nothing_to_go_on_with(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the policy is one that nobody has validated."""
    run = tmp_path / "run"
    stop_after(experiment, run, iterations=1)

    told = capsys.readouterr().out
    assert "stopped with 1 of 4 iterations done; there is no checkpoint yet, so --overwrite begins anew" in told
    record = json.loads((run / "policy" / "policy.json").read_text(encoding="utf-8"))
    assert record["training"]["validation_goodput"] is None
    assert main(["train", str(experiment), "-o", str(run), "--jobs", "1", "--resume"]) == 2


def test_without_tensorboardx_a_note_says_so(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    words = ["train", str(experiment), "-o", str(tmp_path / "run"), "--jobs", "1"]

    assert main([*words, "--set", "batch.iterations=1"]) == 0
    assert capsys.readouterr().err.count("note: tensorboard/ is not written: needs tensorboardX") == 1
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_no_luck_with_a_question_lasts_from_one_seed_to_the_next(experiment: Path) -> None:
    """The simulations of a training have the answers of luck by seed, not those that an evaluation has."""
    training, pool = load_training(experiment, [], OutcomeModel.shipped())
    worlds = (_world_of(training, pool, None).outcomes, OutcomeModel.shipped(luck_by_seed=True), OutcomeModel.shipped())

    learnt_from, by_seed, lasting = ([each.right_calls("math", q, 1).tolist() for q in range(20)] for each in worlds)

    assert learnt_from == by_seed != lasting


def test_processes_are_warmed_up_and_measured(experiment: Path) -> None:
    """As `inframind bench train` does, on a training of its size."""
    outcomes = OutcomeModel.shipped()
    training, pool = load_training(experiment, [], outcomes)

    measured = bench_training(training, pool, outcomes, jobs=2, iterations=1)

    assert measured.role_steps > 0
    assert 0 < measured.learning_share < 1
    assert measured.role_steps_per_s == pytest.approx(measured.role_steps / measured.seconds)


def test_what_is_there_is_not_written_over(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine.txt").write_text("mine", encoding="utf-8")
    words = ["train", str(experiment), "-o", str(run), "--set", "batch.iterations=1", "--jobs", "1"]

    assert main([*words, "--resume"]) == 2
    assert "is no training to go on with" in capsys.readouterr().err
    assert main(words) == 0
    (run / "policy" / "old").touch()
    assert main(words) == 2
    assert "has results already; --resume goes on with a training, --overwrite begins anew" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert not (run / "policy" / "old").exists()
    assert (run / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_a_training_of_other_values_is_not_gone_on_with(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(experiment), "-o", str(run), "--set", "batch.iterations=1", "--jobs", "1"]) == 0

    assert main(["train", str(experiment), "-o", str(run), "--set", "seed=7", "--resume"]) == 2
    told = capsys.readouterr().err
    assert "seed: is now 7, and was 0\n" in told
    assert "what is there cannot be gone on with" in told
    shutil.rmtree(run / "checkpoint")
    assert main(["train", str(experiment), "-o", str(run), "--set", "batch.iterations=1", "--resume"]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


def test_all_mistakes_of_a_file_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('preset = "teory"\nseed = -1\n[load]\nrates_per_min = [10]\n', encoding="utf-8")

    assert main(["train", str(path), "-o", str(tmp_path / "run")]) == 2

    err = capsys.readouterr().err
    assert all(part in err for part in ("preset", "seed", "load.rates_per_min")), err


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("planner.network.prior=12", "planner.network.prior has no effect: it is of the executor alone"),
        ("planner.network.heads=factored", "planner.network.heads has no effect"),
        ("critic.network.prior=12", "critic.network.prior has no effect"),
        ("critic.network.heads=factored", "critic.network.heads has no effect"),
        ("executor.network.kind=flat", "executor.network.query has no effect: kind = 'flat' reads the whole embedding"),
        ("executor.learner.ema_rate=0.5", "executor.learner.ema_rate has no effect: it needs baseline = 'ema'"),
    ],
)
def test_what_would_be_ignored_is_a_mistake(
    setting: str, told: str, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(experiment), "-o", str(tmp_path / "run"), "--set", setting]) == 2
    assert told in capsys.readouterr().err


def test_predictors_are_looked_for_beside_the_file(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(experiment), "-o", str(tmp_path / "run"), "--set", 'predictors="nowhere"']

    assert main(command) == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err


def test_a_training_asks_its_predictors(experiment: Path) -> None:
    class Counting:
        asked = 0

        def latency_map(self, *_: object) -> NDArray[np.float64]:
            self.asked += 1
            return np.ones((5, 3))

    outcomes, predictors = OutcomeModel.shipped(), Counting()
    training, pool = load_training(experiment, ['predictors="p"'], outcomes)

    iteration = Trainer(training, pool, outcomes, 1, predictors).iterate()

    assert training.predictors == str(experiment.parent / "p")
    assert predictors.asked >= iteration.figures["role_steps"]


@pytest.mark.parametrize("preset", ["theory", "reference"])
def test_the_other_presets_train(preset: str, experiment: Path, tmp_path: Path) -> None:
    changes = ["--set", f"preset={preset}", "--set", "batch.iterations=1", "--jobs", "1"]

    assert main(["train", str(experiment), "-o", str(tmp_path / "run"), *changes]) == 0

    record = json.loads((tmp_path / "run" / "policy" / "policy.json").read_text(encoding="utf-8"))
    assert record["executor"]["kind"] == {"theory": "flat", "reference": "dual"}[preset]
