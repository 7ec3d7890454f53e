"""Which of two fitted models the logs speak for, by hand."""

import pandas as pd

from inframind.calibration.fit_evidence import Candidate


def losing(losses: list[float]) -> Candidate:
    """Of so much for each request; nothing else of it matters here."""
    return Candidate((), None, None, None, pd.Series(losses), False, False)  # type: ignore[arg-type]


def test_a_model_that_explains_all_requests_better_is_clearly_better() -> None:
    """Each two of the 40, a stretch of time, lose 1.6 in place of 2; a tenth less would be too little to matter."""
    plain = losing([1.0] * 40)

    assert losing([0.7, 0.9] * 20).is_clearly_better_than(plain)
    assert not losing([0.9] * 40).is_clearly_better_than(plain)
    assert not plain.is_clearly_better_than(losing([0.7, 0.9] * 20))


def test_what_a_few_requests_gain_may_be_chance() -> None:
    """A sixth less in all, by 8 in one stretch of 20: two standard errors of the sum are 16."""
    assert not losing([1.0] * 40).is_clearly_better_than(losing([5.0, 5.0] + [1.0] * 38))
