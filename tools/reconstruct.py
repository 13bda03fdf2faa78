"""Reconstruct images and videos with a tokenizer.

    python tools/reconstruct.py clip.mp4 --tokenizer preview_image --output out
    python tools/reconstruct.py folder/of/files --tokenizer user/name --output out --short-edge 128 --frames 17

Each file gives NAME_reconstruction and NAME_side_by_side (input left, output right), .png of one frame or .mp4 of
more, and a line of scores, computed before the pixels are encoded as .png or .mp4. Videos of any length are streamed.
"""

import argparse
import logging
import math
import sys
from pathlib import Path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="an image, a video, or a folder of them (searched recursively)")
    parser.add_argument("--tokenizer", required=True, help="a run's tokenizer/ folder, a hub id or a shipped name")
    parser.add_argument("--revision", help="of a hub id: a branch, a tag or a commit")
    parser.add_argument("--subfolder", metavar="DIR", help="the folder of the tokenizer within its folder or hub id")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to; an input folder is mirrored")
    parser.add_argument("--short-edge", type=int, metavar="N", help="resize the shorter side to N pixels first")
    parser.add_argument("--frames", type=int, metavar="N", help="frames of a video to use (default: all)")
    parser.add_argument("--frame-stride", type=int, default=1, metavar="N", help="use every N-th frame")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: cuda where there is one)")
    return parser.parse_args()


def print_table(results: dict) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("file", "T x H x W", "tokens", "bits/pixel", "PSNR (dB)", "SSIM", "seconds")
    for name, result in results.items():
        tokens = " x ".join(map(str, result.tokens)).removesuffix(" x 1")  # codebooks per position
        table.add_row(escape(str(name)), " x ".join(map(str, result.size)), f"{tokens} = {math.prod(result.tokens)}",
                      f"{result.bits_per_pixel:.4g}", f"{result.psnr:.2f}",
                      "-" if result.ssim is None else f"{result.ssim:.4f}", f"{result.seconds:.2f}")
    Console(width=max(120, Console().width)).print(table)


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    import torch

    from toolkit import load_tokenizer
    from toolkit.contracts import DataError
    from toolkit.data.reading.files import find_files
    from toolkit.reconstruction import codebook_use, reconstruct_files
    from toolkit.registry import PluginError, UnknownComponentError

    try:
        tokenizer = load_tokenizer(arguments.tokenizer, revision=arguments.revision, subfolder=arguments.subfolder)
        try:
            tokenizer.to(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except (AssertionError, RuntimeError) as error:  # what torch raises for a missing device
            sys.exit(f"error: --device {arguments.device}: {str(error).splitlines()[0]}")
        files = find_files(arguments.input, output=arguments.output)
        results = dict(reconstruct_files(tokenizer, files, num_frames=arguments.frames,
                                         frame_stride=arguments.frame_stride, short_edge=arguments.short_edge))
    except (DataError, KeyboardInterrupt, OSError, PluginError, TypeError, UnknownComponentError, ValueError) as error:
        sys.exit(f"error: {str(error) or 'interrupted'}")
    skipped = [result for result in results.values() if isinstance(result, DataError)]
    done = {files[file].relative_to(arguments.output): result for file, result in results.items()
            if not isinstance(result, DataError)}
    if not done:
        sys.exit("error: " + "\n  ".join(map(str, skipped)))
    print_table(done)
    use = codebook_use(done.values())
    print(f"codebook: {use['codebook_usage']:.3%} of {tokenizer.codebook_size} codes in use, perplexity "
          f"{use['codebook_perplexity']:.4g}, entropy {use['codebook_entropy']:.2f} of at most "
          f"{use['codebook_entropy_bound']:.2f} nats, digits {use['codebook_digit_entropy']:.1%} even")
    if skipped:
        print(f"skipped {len(skipped)} of {len(files)} files:", *skipped, sep="\n  ")


if __name__ == "__main__":
    main()
