"""docs/workflows.md names what the code has."""

from __future__ import annotations

from pathlib import Path

from inframind.workflows import DOMAINS, PRIORITY_RULES, STRATEGIES, TOPOLOGIES, Outcome

PAGE = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text(encoding="utf-8")


def table(after: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its two head lines."""
    section = PAGE.split(f"## {after}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_page_is_up_to_date() -> None:
    assert [row[0] for row in table("Topologies")] == list(TOPOLOGIES)
    assert table("Roles") == [
        list(role_sets) for role_sets in zip(*(domain.role_sets for domain in DOMAINS.values()), strict=True)
    ]
    assert [row[0] for row in table("Budgets and priorities")] == list(PRIORITY_RULES)
    assert [row[0] for row in table("Failures")] == [str(outcome) for outcome in Outcome]
    assert all(f"`{strategy}`" in PAGE for strategy in STRATEGIES)
