"""Multi-agent workflows, and the controller that runs them: pure, no clock, no I/O."""

from .commands import CallRecord, Cancel, Command, Outcome, Submit, WorkflowFinished
from .controller import Answer, Controller, ControllerOptions, Decisions
from .events import (
    Arrived,
    CallFailed,
    CallFinished,
    Event,
    MetricsPolled,
    ServerClosed,
    ServerOpened,
    Stopped,
    Woken,
    tie_order,
)
from .log import Replay, log_lines, read_log, replay, to_json
from .observation import SERVER_FEATURES, Context, LatencyModel, Observation, observe
from .policy import Choice, ExecutorPolicy, Plan, PlannerPolicy
from .priorities import PRIORITY_RULES, edf_priority
from .prompts import STRATEGIES, Message, Prompt, build_prompt
from .query import Query
from .roles import DECIDER, DOMAINS, ROLE_NAMES, Domain, Role
from .servers import ServerInfo, ServerTable
from .topologies import TOPOLOGIES, Topology
from .workflow import Node, Workflow, build_workflow

__all__ = [
    "DECIDER",
    "DOMAINS",
    "PRIORITY_RULES",
    "ROLE_NAMES",
    "SERVER_FEATURES",
    "STRATEGIES",
    "TOPOLOGIES",
    "Answer",
    "Arrived",
    "CallFailed",
    "CallFinished",
    "CallRecord",
    "Cancel",
    "Choice",
    "Command",
    "Context",
    "Controller",
    "ControllerOptions",
    "Decisions",
    "Domain",
    "Event",
    "ExecutorPolicy",
    "LatencyModel",
    "Message",
    "MetricsPolled",
    "Node",
    "Observation",
    "Outcome",
    "Plan",
    "PlannerPolicy",
    "Prompt",
    "Query",
    "Replay",
    "Role",
    "ServerClosed",
    "ServerInfo",
    "ServerOpened",
    "ServerTable",
    "Stopped",
    "Submit",
    "Topology",
    "Woken",
    "Workflow",
    "WorkflowFinished",
    "build_prompt",
    "build_workflow",
    "edf_priority",
    "log_lines",
    "observe",
    "read_log",
    "replay",
    "tie_order",
    "to_json",
]
