"""Policies that run workflows on a pool of LLMs, and how they are compared."""

from .evaluation import CellResult, World, arrivals
from .evaluation_cells import cell_to_bytes, read_cell
from .evaluation_file import SCHEDULERS, Cell, Evaluation, load_evaluation
from .evaluation_summary import (
    ALL_TIERS,
    FIGURES,
    figures_table,
    jain_index,
    scheduler_gains,
    summarise_evaluation,
    t_interval,
)
from .knowledge import Expectations, Knowledge, Map, Prospect
from .plans import PLANNERS, DrawnPlan, FixedPlan, ManyAgents, planner_of
from .policies import POLICIES, Factory, Policy, Setting

__all__ = [
    "ALL_TIERS",
    "FIGURES",
    "PLANNERS",
    "POLICIES",
    "SCHEDULERS",
    "Cell",
    "CellResult",
    "DrawnPlan",
    "Evaluation",
    "Expectations",
    "Factory",
    "FixedPlan",
    "Knowledge",
    "ManyAgents",
    "Map",
    "Policy",
    "Prospect",
    "Setting",
    "World",
    "arrivals",
    "cell_to_bytes",
    "figures_table",
    "jain_index",
    "load_evaluation",
    "planner_of",
    "read_cell",
    "scheduler_gains",
    "summarise_evaluation",
    "t_interval",
]
