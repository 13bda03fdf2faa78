"""A toolkit for discrete visual tokenizers: train, compare and use them.

Names are resolved when they are first used, so that ``import toolkit`` loads no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOME = {
    "load_config": "toolkit.config",
    "build_tokenizer": "toolkit.build",
    "load_tokenizer": "toolkit.build",
    "build_objective": "toolkit.build",
    "Tokenizer": "toolkit.tokenizer",
    "shipped_tokenizers": "toolkit.shipped",
    **dict.fromkeys(["ENCODERS", "DECODERS", "QUANTIZERS", "DISCRIMINATORS", "LOSSES", "METRICS", "DATASETS",
                     "CHECKPOINTS", "BASELINES"], "toolkit.registry"),
    **dict.fromkeys(["Encoder", "Decoder", "Quantizer", "Discriminator", "Loss", "AdversarialLoss",
                     "GeneratorWeight", "Metric", "Column", "Dataset", "CheckpointFamily", "Baseline",
                     "QuantizerOutput", "TokenizerOutput"], "toolkit.contracts"),
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
