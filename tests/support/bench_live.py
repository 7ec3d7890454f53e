"""What the live client costs: many workflows at once on fake servers, in processes of their own.

    python tests/support/bench_live.py [WORKFLOWS [SERVERS]]

Every workflow has two agents and a decision, every call 20 tokens, one a second; all arrive within ten seconds, before
the first of them ends. Prints JSON: workflows without an answer, how late arrivals and the event loop were, CPU time of
the client for each call.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from fake_vllm import Behaviour, FakeVllm
from live_world import arrive
from policies import FixedPlan, JoinShortestQueue

from inframind.cli.live_replay import _raise_open_files
from inframind.live import Endpoint, ExactLengths, ReplayOptions, replay_live, run_tables
from inframind.workflows import Controller, ControllerOptions, ServerInfo, replay

TOKENS = 20
STEP_S = 1.0
ARRIVALS_S = 10.0
SLOTS = 10_000


def serve() -> None:
    """One fake server, until its input ends."""
    with FakeVllm(Behaviour(model="m", step_s=STEP_S, max_num_seqs=SLOTS)) as server:
        print(server.url, flush=True)
        sys.stdin.read()


def measure(num_workflows: int, num_servers: int) -> dict[str, object]:
    """Run them, and say how it went."""
    processes = [
        subprocess.Popen([sys.executable, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(num_servers)
    ]
    try:
        urls = [process.stdout.readline().strip() for process in processes if process.stdout is not None]
        return _run(urls, num_workflows)
    finally:
        for process in processes:
            process.communicate()


def _run(urls: list[str], num_workflows: int) -> dict[str, object]:
    infos = [ServerInfo(f"s{index}", "m", SLOTS) for index in range(len(urls))]
    plan = FixedPlan("IO", "MathSolver+Inspector")
    controller = Controller(infos, plan, JoinShortestQueue(), ControllerOptions())
    gap_s = ARRIVALS_S / num_workflows
    arrivals = [arrive(gap_s * number, f"q{number}", budget_s=600.0) for number in range(num_workflows)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        endpoints = [Endpoint(url, "m") for url in urls]
        exact = ExactLengths(lambda _: TOKENS, salt=1)
        replay_live(controller, endpoints, arrivals, exact, folder, options=ReplayOptions(max_open=_raise_open_files()))
        tables = run_tables(folder, infos)
        part = json.loads((folder / "client.json").read_text())["parts"][0]
        lines = (folder / "events.jsonl").read_text().splitlines()
    again = replay(lines, plan, JoinShortestQueue())
    ends = tables.workflows["arrival_s"] + tables.workflows["latency_s"]
    at_once = max(int(((tables.workflows["arrival_s"] <= t) & (ends > t)).sum()) for t in tables.workflows["arrival_s"])
    return {
        "workflows": num_workflows,
        "at_once": at_once,
        "unanswered": num_workflows - int((tables.workflows["outcome"] == "finished").sum()),
        "without_outcome": num_workflows - len(tables.workflows),
        "calls": len(tables.calls),
        "failed_calls": int((tables.calls["outcome"] != "finished").sum()),
        "log_agrees": again.difference is None,
        "latency_mean_s": float(tables.workflows["latency_s"].mean()),
        "latency_least_possible_s": 2 * TOKENS * STEP_S,
        **part,
        "cpu_ms_per_piece": 1000 * part["cpu_s"] / (len(tables.calls) * TOKENS),
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        num_workflows, num_servers = (int(word) for word in (*sys.argv[1:], *("500", "4")[len(sys.argv) - 1 :]))
        print(json.dumps(measure(num_workflows, num_servers), indent=2))
