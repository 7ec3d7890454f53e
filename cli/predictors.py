"""Trained latency predictors, as the files of evaluations and trainings name them."""

from inframind.calibration.predictors import LatencyPredictors
from inframind.sim import PoolSection
from inframind.sim.outcomes import OutcomeModel
from inframind.traces import ConfigError
from inframind.workflows import STRATEGIES


def load_predictors(folder: str | None, pool: PoolSection, outcomes: OutcomeModel) -> LatencyPredictors | None:
    """Those that a file names, if it does.

    Raises
    ------
    ConfigError
        They are broken, or do not fit the pool or the questions.
    """
    if folder is None:
        return None
    predictors = LatencyPredictors.load(folder, [server.model for server in pool.servers], list(STRATEGIES))
    size, ours = predictors.about.embedding_size, outcomes.bank.embedding.shape[1]
    if size not in (None, ours):
        mistake = f"trained with query embeddings of {size} numbers; those of the questions have {ours}"
        raise ConfigError(folder, [mistake])
    return predictors
