import json
import tarfile
from pathlib import Path

import pytest

from inframind.traces.lengths import Empirical
from inframind.traces.mistakes import TraceError
from inframind.traces.servegen import read_servegen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Client 0 sends in two windows, twice as much in the second; client 2 early only, client 10 never."""
    folder = tmp_path / "model"
    folder.mkdir()

    def write(number: int, trace: str, *windows: str) -> None:
        (folder / f"chunk-{number}-trace.csv").write_text(trace)
        histograms = {
            str(21600 * index): {"input_tokens": tokens, "output_tokens": "{3: 1.0}", "reason_ratio": "{}"}
            for index, tokens in enumerate(windows)
        }
        (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(histograms))

    write(0, "0,1,2,Gamma,0.25,4\n21600,2,5,Weibull,1,1\n", "{10: 0.5, 20: 0.5}", "{20: 1.0}")
    write(2, "0,0.5,1,Gamma,1,2\n21600,0,0,,0,0\n", "{7: 1.0}", "{}")
    write(10, "0,0,0,,0,0\n21600,0,0,,0,0\n", "{}", "{}")
    return folder


def test_rates_variation_and_lengths_are_weighted_by_requests(folder: Path) -> None:
    mixture = read_servegen(folder)

    assert mixture.rate_per_min == pytest.approx(60 * (1.5 + 0.25))
    first, second = mixture.clients
    assert first.share == 1.5
    assert first.cv == pytest.approx((1 * 2 + 2 * 5) / 3)
    assert first.prompt_tokens == Empirical(values=(10, 20), weights=(0.5, 2.5))
    assert first.output_tokens == Empirical(values=(3,), weights=(3.0,))
    assert (second.share, second.cv) == (0.25, 1)


def test_a_span_leaves_out_what_lies_outside(folder: Path) -> None:
    mixture = read_servegen(folder, start_s=21600)

    assert mixture.rate_per_min == 120
    assert [client.cv for client in mixture.clients] == [5]
    assert mixture.clients[0].prompt_tokens == Empirical(values=(20,), weights=(2.0,))


def test_an_archive_reads_as_its_folder(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(folder, "data/model")

    assert read_servegen(tmp_path / "model.tar.gz") == read_servegen(folder)


def test_what_is_not_there_or_not_as_described_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no requests from 50000 s to inf s"):
        read_servegen(folder, start_s=50_000)
    with pytest.raises(TraceError, match="cannot be read"):
        read_servegen(tmp_path / "none.tar.gz")
    (folder / "chunk-0-dataset.json").write_text("{}")
    with pytest.raises(TraceError, match="chunk-0: not as ServeGen writes it"):
        read_servegen(folder)
    (folder / "chunk-0-dataset.json").unlink()
    with pytest.raises(TraceError, match=r"chunk-0-dataset\.json: missing"):
        read_servegen(folder)


def test_the_deepseek_clients_read_at_their_recorded_rate(shared_data: Path) -> None:
    archive = shared_data / "servegen_reason_deepseek_r1" / "reason_deepseek-r1.tar.gz"

    mixture = read_servegen(archive)

    assert len(mixture.clients) == 73
    assert mixture.rate_per_min / 60 == pytest.approx(16.0147, abs=1e-3)
