"""A real vLLM server on this machine's CPU, for the tests marked ``live``."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from inframind.cli import main
from inframind.live import VllmServer, wait_until_healthy

ROOT = Path(__file__).parents[2]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
MODEL = ROOT / ".venv-vllm" / "models" / "SmolLM2-135M-Instruct"
MODEL_MAKER = Path(__file__).with_name("make_smollm2.py")
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # The client needs a core of its own: two threads of the server on two cores would delay its clock.
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
ARGUMENTS = (
    *("--served-model-name", "smollm2", "--dtype", "bfloat16", "--enforce-eager"),
    *("--max-model-len", "2048", "--max-num-seqs", "8"),
)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The model directory, made once and kept."""
    missing = None
    if not VLLM_PYTHON.exists():
        missing = f"no vLLM in {VLLM_PYTHON.parents[1].name}"
    elif not MODEL.is_dir():
        MODEL.parent.mkdir(exist_ok=True)
        made = subprocess.run(
            [VLLM_PYTHON, MODEL_MAKER, MODEL],
            env=os.environ | ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            missing = f"the model could not be made: {made.stderr.strip().splitlines()[-1:]}"
    if missing:
        reason = f"{missing}; make test-live installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return MODEL


@pytest.fixture(scope="session")
def live_section(smollm2: Path) -> str:
    """Of a pool file: how that model is started."""
    environment = ", ".join(f'{name} = "{value}"' for name, value in ENVIRONMENT.items())
    return f"""
[servers.live]
model_path = "{smollm2}"
vllm_python = "{VLLM_PYTHON}"
extra_args = ["--dtype", "bfloat16", "--enforce-eager"]
env = {{ {environment} }}
"""


@pytest.fixture(scope="session")
def real_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """SmolLM2-135M with 8 slots, first come first served; up in about 30 s."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with VllmServer(VLLM_PYTHON, smollm2, port=port, log=log, arguments=ARGUMENTS, environment=ENVIRONMENT) as server:
        wait_until_healthy([server], 240)
        yield server


@pytest.fixture(scope="session")
def profile_log(real_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short profile of that server."""
    folder = tmp_path_factory.mktemp("profile") / "log"
    command = ["calibrate", "profile", real_server.url, "-o", str(folder), "--minutes", "4"]
    assert main([*command, "--no-async-scheduling", "--max-num-batched-tokens", "2048"]) == 0
    return folder
