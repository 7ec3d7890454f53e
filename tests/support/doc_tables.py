"""The tables of two documents, from the code; ``python tests/support/doc_tables.py`` writes them."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from inframind.agents.constraint import ConstraintOptions
from inframind.agents.networks import NetworkOptions
from inframind.agents.training_file import (
    BatchOptions,
    CongestionOptions,
    CriticOptions,
    ExecutorOptions,
    Learner,
    LoadOptions,
    PlannerOptions,
    RewardOptions,
    Training,
)
from inframind.cli.experiment import Experiment
from inframind.sim import LiveSection, ServerSection, StepTimeSection
from inframind.sim.server_file import ClientSection, FittedOn, RequestsFittedOn, SchedulerSection
from inframind.traces import (
    CALLS,
    REQUESTS,
    SAMPLES,
    SUMMARY,
    WORKFLOWS,
    Budgets,
    Client,
    Clients,
    Constant,
    Empirical,
    Gamma,
    LogNormal,
    Microburst,
    Poisson,
    Sustained,
    SyntheticWorkload,
    TraceWorkload,
    Uniform,
)

PAGE, TRAINING_PAGE = (Path(__file__).parents[2] / "docs" / name for name in ("files.md", "training.md"))
SECTIONS: dict[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        *(Experiment, TraceWorkload, SyntheticWorkload, Budgets),
        *(Poisson, Gamma, Microburst, Sustained, Clients, Client),
        *(Constant, Uniform, LogNormal, Empirical),
        *(ServerSection, SchedulerSection, StepTimeSection, FittedOn, RequestsFittedOn, ClientSection, LiveSection),
    )
}
TRAINING_SECTIONS: dict[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        *(Training, LoadOptions, PlannerOptions, ExecutorOptions, CriticOptions, NetworkOptions, Learner),
        *(RewardOptions, CongestionOptions, ConstraintOptions, BatchOptions),
    )
}
SCHEMAS = {"REQUESTS": REQUESTS, "CALLS": CALLS, "WORKFLOWS": WORKFLOWS, "SAMPLES": SAMPLES, "SUMMARY": SUMMARY}
_BLOCK = re.compile(r"(<!-- table (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every table as the code has it."""
    return _BLOCK.sub(lambda match: match[1] + table(match[2]) + match[4], page)


def named(page: str) -> set[str]:
    """Which tables stand in the page."""
    return {match[2] for match in _BLOCK.finditer(page)}


def table(name: str) -> str:
    """One table, by the name of its model or schema."""
    rows = _of_schema(SCHEMAS[name]) if name in SCHEMAS else _of_section((SECTIONS | TRAINING_SECTIONS)[name])
    return "\n" + "".join("| " + " | ".join(row) + " |\n" for row in rows) + "\n"


def _of_section(section: type[BaseModel]) -> list[list[str]]:
    rows = [["key", "default", "meaning"], ["---", "---", "---"]]
    for name, field in section.model_fields.items():
        # A kind of one value tells sections apart, and is named in the text.
        if name != "kind" or len(get_args(field.annotation)) > 1:
            default = field.get_default(call_default_factory=True)
            rows.append([f"`{name}`", _default(default), _prose(field.description or "")])
    return rows


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "as below"
    if value == {}:
        return "empty"
    return f"`{json.dumps(value)}`"


def _of_schema(schema: pa.Schema) -> list[list[str]]:
    rows = [["column", "type", "meaning"], ["---", "---", "---"]]
    for field in schema:
        empty = ", may be empty" if field.nullable else ""
        rows.append([f"`{field.name}`", f"{field.type}{empty}", _prose(field.metadata[b"description"].decode())])
    return rows


def _prose(text: str) -> str:
    text = re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for page in (PAGE, TRAINING_PAGE):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
