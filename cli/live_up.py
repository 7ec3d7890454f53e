"""``inframind live up``: start the servers of a pool, check them, and keep them until Ctrl-C."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from inframind.live import Checked, LaunchError, ServerError
from inframind.sim import PoolSection, load_pool
from inframind.traces import ConfigError, write_whole

from .live_pool import RunningPool, check_endpoints, live_pool, terminable, with_policy
from .output import print_table

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

URLS = "urls.toml"
WATCH_S = 0.5


def add_parser(commands: "Commands") -> None:
    """Declare ``live up``."""
    parser = commands.add_parser("up", help="start the servers of a pool, and keep them until Ctrl-C")
    parser.add_argument("pool", metavar="POOL.toml", help="a pool file whose servers have [servers.live] sections")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="folder for logs and urls.toml (default runs/POOL-live)"
    )
    parser.add_argument(
        "--scheduling-policy", choices=("fcfs", "priority"), help="of all servers, instead of the pool file's"
    )
    add_pool_arguments(parser)
    parser.set_defaults(run=run)


def add_pool_arguments(parser: argparse.ArgumentParser) -> None:
    """Those that say how servers are started."""
    parser.add_argument(
        "--vllm-python", type=Path, metavar="PYTHON", help="interpreter that has vLLM, where the pool file names none"
    )
    parser.add_argument(
        "--no-checks", action="store_true", help="do not compare the servers with the pool file before they are used"
    )


def run(args: argparse.Namespace) -> int:
    """Start, check, tell, and wait."""
    base = Path(args.pool).parent
    pool = load_pool(Path(args.pool).name, base)
    if args.scheduling_policy is not None:
        pool = with_policy(pool, args.scheduling_policy)
    out = args.out or Path("runs") / f"{Path(args.pool).stem}-live"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(out, [f"cannot be written: {error.strerror}"]) from None
    try:
        with terminable(), live_pool(pool, base, out / "logs", vllm_python=args.vllm_python) as running:
            checked = [] if args.no_checks else check_endpoints(pool, running.endpoints)
            _keep(pool, running, checked, out)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    return 0


def _keep(pool: PoolSection, running: RunningPool, checked: list[Checked], out: Path) -> None:
    """Tell where the servers are, and wait for ever.

    Raises
    ------
    LaunchError
        A server has ended.
    """
    names = [server.name for server in pool.servers]
    urls = {name: endpoint.url for name, endpoint in zip(names, running.endpoints, strict=True)}
    versions = [found.facts.version if found.facts else "" for found in checked] or [""] * len(names)
    rows = [
        [name, endpoint.url, endpoint.model, version]
        for name, endpoint, version in zip(names, running.endpoints, versions, strict=True)
    ]
    print_table("live pool", ["server", "url", "model", "vLLM"], rows)
    write_whole(out / URLS, tomli_w.dumps(urls))
    print(
        f"logs: {out / 'logs'}\nnext: inframind live replay EXPERIMENT.toml --urls {out / URLS} ...; Ctrl-C stops them"
    )
    sys.stdout.flush()
    try:
        while True:
            for vllm in running.started.values():
                if vllm.exit_code is not None:
                    raise LaunchError(vllm.complaint(f"the server ended with exit code {vllm.exit_code}"))
            time.sleep(WATCH_S)
    finally:
        (out / URLS).unlink(missing_ok=True)
