"""What results say of their pool."""

import tomllib
from pathlib import Path

import tomli_w

from inframind.sim import load_pool

POOL = """
[[servers]]
name = "a"
model = "m"
scheduler = { max_num_seqs = 8, max_num_batched_tokens = 2048, num_blocks = 200, max_model_len = 2048 }
step_time = { fixed_s = 0.01, prefill_token_s = 1e-4, decode_s = 1e-5 }
[servers.live]
model_path = "m"
env = { VLLM_API_KEY = "secret" }
"""


def test_the_environment_of_servers_is_not_in_it_and_a_file_can_hold_it(tmp_path: Path) -> None:
    (tmp_path / "pool.toml").write_text(POOL)

    text = tomli_w.dumps(load_pool("pool.toml", tmp_path).recorded())

    (server,) = tomllib.loads(text)["servers"]
    assert server["live"]["model_path"].endswith("m")
    assert "env" not in server["live"]
    assert "secret" not in text
