from pathlib import Path

from inframind.calibration import write_pool
from inframind.sim.server_file import (
    FittedOn,
    PoolSection,
    SchedulerSection,
    ServerSection,
    StepTimeSection,
    load_pool,
)


def test_a_written_pool_is_read_back_with_rounded_numbers(tmp_path: Path) -> None:
    step_time = StepTimeSection(
        fixed_s=0.0123456,
        prefill_token_s=6.54321e-5,
        decode_s=0.0,
        std_error={"fixed_s": 1.239e-4},
        fitted_on=FittedOn(
            source='a "table"',
            licence="CC0-1.0",
            num_points=46,
            error_p50=0.01239,
            error_p95=0.1,
            max_prefill_tokens=8192,
            max_num_decodes=256,
            max_context_tokens=132160,
        ),
    )
    scheduler = SchedulerSection(num_blocks=2000, max_model_len=16384, enable_prefix_caching=False)
    pool = PoolSection(
        servers=tuple(
            ServerSection(name=name, model="M", scheduler=scheduler, step_time=step_time) for name in ("a", "b")
        )
    )

    write_pool(pool, ["two of them", "  made up"], tmp_path / "pool.toml")

    assert (tmp_path / "pool.toml").read_text().startswith("# two of them\n#   made up\n\n[[servers]]\n")
    read = load_pool("pool.toml", tmp_path)
    assert [server.name for server in read.servers] == ["a", "b"]
    assert read.servers[0].scheduler == scheduler
    assert read.servers[0].step_time.fixed_s == 0.01235
    assert read.servers[0].step_time.prefill_token_s == 6.543e-5
    assert read.servers[0].step_time.decode_s == 0
    assert read.servers[0].step_time.std_error == {"fixed_s": 1.2e-4}
    fitted_on = read.servers[0].step_time.fitted_on
    assert fitted_on is not None
    assert (fitted_on.source, fitted_on.error_p50, fitted_on.num_points) == ('a "table"', 0.0124, 46)
