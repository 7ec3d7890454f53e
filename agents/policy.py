"""What a policy is: rules and trained networks alike."""

from typing import NamedTuple

from inframind.workflows import ExecutorPolicy, PlannerPolicy


class Policy(NamedTuple):
    """Who decides in a run."""

    planner: PlannerPolicy
    """How each query is worked on."""
    executor: ExecutorPolicy
    """Where and how each call is made."""
