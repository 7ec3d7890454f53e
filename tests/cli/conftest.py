"""What tests of the commands share."""

import pytest

from inframind.cli import report_check_figures, report_compare_figures, report_evaluate_figures, report_figures

WITH_FIGURES = (report_check_figures, report_compare_figures, report_evaluate_figures, report_figures)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at figures: they are made, but not drawn, which takes most of a command's time."""
    for module in WITH_FIGURES:
        monkeypatch.setattr(module, "as_html", lambda figure, salt, description, **_: "<svg></svg>")
