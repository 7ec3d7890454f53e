"""A simulated vLLM pool on SimPy that takes the same scheduling decisions as vLLM itself."""

from .bench import bench_sim
from .call_log import CallLog
from .clock import TICKS_PER_S, Environment, to_seconds, to_ticks
from .fast_forward import FastForwardScheduler
from .pool import Pool
from .recording import WorkloadFile, schedule_workload
from .request import Request, Status
from .server import FINISHED, Failure, Server, ServerOptions, State
from .server_file import SHIPPED_POOLS, PoolSection, ServerSection, StepTimeSection, load_pool, load_server
from .simulate import CallRun, edf_priority, simulate_calls
from .step_time import StepTime
from .verify import RecorderError, Verification, random_workload, verify
from .vllm_0_32 import Scheduler, SchedulerOptions, Step

__all__ = [
    "FINISHED",
    "SHIPPED_POOLS",
    "TICKS_PER_S",
    "CallLog",
    "CallRun",
    "Environment",
    "Failure",
    "FastForwardScheduler",
    "Pool",
    "PoolSection",
    "RecorderError",
    "Request",
    "Scheduler",
    "SchedulerOptions",
    "Server",
    "ServerOptions",
    "ServerSection",
    "State",
    "Status",
    "Step",
    "StepTime",
    "StepTimeSection",
    "Verification",
    "WorkloadFile",
    "bench_sim",
    "edf_priority",
    "load_pool",
    "load_server",
    "random_workload",
    "schedule_workload",
    "simulate_calls",
    "to_seconds",
    "to_ticks",
    "verify",
]
