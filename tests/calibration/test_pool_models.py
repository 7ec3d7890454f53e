from inframind.calibration import MEMBERS, Architecture, num_gpu_blocks

PUBLISHED_PARAMETERS = {
    "deepseek-r1-32b": 32_763_876_352,
    "mistral-24b": 23_572_403_200,
    "qwen-coder-14b": 14_770_033_664,
    "llama-8b": 8_030_261_248,
    "llama-3b": 3_212_749_824,
}
"""Of the published weights."""
LLAMA_8B = Architecture(32, 4096, 32, 8, 128, 14336, 128256)


def test_the_architectures_have_as_many_weights_as_published() -> None:
    assert {member.name: member.architecture.num_parameters for member in MEMBERS} == PUBLISHED_PARAMETERS


def test_a_step_reads_all_weights_but_the_embedding() -> None:
    llama_3b = MEMBERS[4].architecture

    assert LLAMA_8B.read_parameters == 8_030_261_248 - 128256 * 4096 - 4096
    assert llama_3b.read_parameters == 3_212_749_824 - 3072  # the embedding is the output layer


def test_kv_bytes_of_llama_8b() -> None:
    assert LLAMA_8B.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2 == 128 * 1024


def test_blocks_are_what_the_weights_leave() -> None:
    """Of 41.5 GiB; a block of 16 tokens is 2 MiB, on two GPUs 1 MiB on each."""
    weights_mib = 16_060_522_496 / 2**20

    one_gpu = num_gpu_blocks(LLAMA_8B, int(41.5 * 2**30), 16)
    two_gpus = num_gpu_blocks(LLAMA_8B, int(41.5 * 2**30), 16, tp_size=2)

    assert one_gpu == int((41.5 * 1024 - weights_mib) / 2)
    assert two_gpus == int((41.5 * 1024 - weights_mib / 2) / 1)


def test_blocks_of_a_real_server() -> None:
    """vLLM 0.19, Llama-3.1-8B on an RTX 4090 (llmservingsim_vllm_bench): 2588 blocks, so 1.15 GiB were neither."""
    usable = int(0.9 * 25_250_627_584) - int(1.15 * 2**30)

    assert abs(num_gpu_blocks(LLAMA_8B, usable, 16) - 2588) < 5
