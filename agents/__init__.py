"""Policies that run workflows on a pool of LLMs, and how they are compared."""

from inframind.sim.knowledge import Expectations, Knowledge, Map, Prospect

from .evaluation import CellResult, World, arrivals
from .evaluation_cells import cell_to_bytes, read_cell
from .evaluation_file import SCHEDULERS, Cell, Evaluation, load_evaluation
from .evaluation_summary import (
    ALL_TIERS,
    FIGURES,
    MIN_SEEDS,
    figures_table,
    jain_index,
    over_tiers,
    policy_gains,
    scheduler_gains,
    summarise_evaluation,
    t_interval,
)
from .plans import PLANNERS, DrawnPlan, FixedPlan, ManyAgents, planner_of
from .policies import BOUND, POLICIES, POLICY_FILE, Factory, Setting, factory_of, is_folder, label_of
from .policy import Policy

__all__ = [
    "ALL_TIERS",
    "BOUND",
    "FIGURES",
    "MIN_SEEDS",
    "PLANNERS",
    "POLICIES",
    "POLICY_FILE",
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
    "factory_of",
    "figures_table",
    "is_folder",
    "jain_index",
    "label_of",
    "load_evaluation",
    "over_tiers",
    "planner_of",
    "policy_gains",
    "read_cell",
    "scheduler_gains",
    "summarise_evaluation",
    "t_interval",
]
