"""A simulated vLLM pool on SimPy that takes the same scheduling decisions as vLLM itself."""

from .bench import bench_sim
from .bench_workflows import WorkflowMeasurement, bench_workflows
from .call_log import CallLog
from .clock import TICKS_PER_S, Environment, to_seconds, to_ticks
from .data_parallel import start_server
from .fast_forward import FastForwardScheduler
from .pool import Pool
from .recording import WorkloadFile, schedule_workload
from .request import Request, Status
from .server import FINISHED, Failure, Server, ServerOptions, State
from .server_file import (
    SHIPPED_POOLS,
    LiveSection,
    PoolSection,
    ServerSection,
    ServerToFit,
    StepTimeSection,
    load_pool,
    load_server,
    load_server_to_fit,
)
from .simulate import CallRun, simulate_calls
from .simulate_workflows import WorkflowRun, simulate_workflows
from .step_time import StepTime
from .verify import RecorderError, Verification, random_workload, verify
from .vllm_0_32 import Scheduler, SchedulerOptions, Step
from .workflow_driver import EndedWorkflow, Outcomes, WorkflowDriver

__all__ = [
    "FINISHED",
    "SHIPPED_POOLS",
    "TICKS_PER_S",
    "CallLog",
    "CallRun",
    "EndedWorkflow",
    "Environment",
    "Failure",
    "FastForwardScheduler",
    "LiveSection",
    "Outcomes",
    "Pool",
    "PoolSection",
    "RecorderError",
    "Request",
    "Scheduler",
    "SchedulerOptions",
    "Server",
    "ServerOptions",
    "ServerSection",
    "ServerToFit",
    "State",
    "Status",
    "Step",
    "StepTime",
    "StepTimeSection",
    "Verification",
    "WorkflowDriver",
    "WorkflowMeasurement",
    "WorkflowRun",
    "WorkloadFile",
    "bench_sim",
    "bench_workflows",
    "load_pool",
    "load_server",
    "load_server_to_fit",
    "random_workload",
    "schedule_workload",
    "simulate_calls",
    "simulate_workflows",
    "start_server",
    "to_seconds",
    "to_ticks",
    "verify",
]
