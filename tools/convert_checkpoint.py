"""Convert a checkpoint of another code base to a tokenizer directory.

    python tools/convert_checkpoint.py pytorch_model.bin work_dirs/o2
    python tools/convert_checkpoint.py imagenet_256_L.ckpt work_dirs/open_magvit2 --layout open_magvit2 --no-ema

Sizes are read from the tensors, and the layout is recognised unless two fit (taming and ibq have the same names:
--layout names one). All of the tokenizer must fit, or nothing is written. load_tokenizer, reconstruct.py and
training.init_from take OUT; a discriminator goes to OUT/discriminator.
"""

import argparse
import logging
import sys
from pathlib import Path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help=".safetensors, .npz, .bin, .pt, .pth or .ckpt")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--layout", help="o2_magvit2, open_magvit2, llamagen, taming, ibq, praxis or a "
                        "plugin's (default: recognise it)")
    parser.add_argument("--no-ema", action="store_true", help="use the raw weights where there are averaged ones")
    parser.add_argument("--no-discriminator", action="store_true", help="do not convert the discriminator")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from toolkit.interop import convert_checkpoint
    from toolkit.registry import PluginError

    try:
        done = convert_checkpoint(arguments.checkpoint, arguments.layout, ema=not arguments.no_ema,
                                  discriminator=not arguments.no_discriminator)
        done.save(arguments.out)
    except (OSError, PluginError, ValueError) as error:
        sys.exit(f"error: {error}")
    tokenizer = done.tokenizer
    names = ", ".join(type(component).__name__ for component in tokenizer.children())
    print(f"{done.layout}{', averaged weights' if done.ema else ''}: {names}; stride "
          f"{'x'.join(map(str, tokenizer.stride))}, {tokenizer.codebook_size} codes, "
          f"{sum(p.numel() for p in tokenizer.parameters()) / 1e6:.1f} M parameters -> {arguments.out}")
    if done.discriminator is not None:
        print(f"discriminator: {type(done.discriminator).__name__} -> {arguments.out / 'discriminator'}")
    for reason, names in done.skipped.items():
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        print(f"skipped, {reason}: {shown}")


if __name__ == "__main__":
    main()
