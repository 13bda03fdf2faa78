"""Write the tokens of images and videos as tars that webdataset reads, or decode such tars.

    python tools/extract_tokens.py folder/of/files --tokenizer preview_image --output tokens
    accelerate launch tools/extract_tokens.py "shards/{000..127}.tar" --tokenizer user/name --output tokens
    python tools/extract_tokens.py tokens --decode --tokenizer user/name --output decoded

After an interruption the same command continues. Files that cannot be read are listed in unreadable.txt. A sample is
KEY.indices.npy, integers (*positions, codebooks), and KEY.json; toolkit.tokens.read_tokens reads them in Python.
"""

import argparse
import logging
import sys
from pathlib import Path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="images, videos and tars of them: a folder, a list file, a pattern or a file")
    parser.add_argument("--decode", action="store_true", help="the input is tokens: write NAME_reconstruction of each")
    parser.add_argument("--tokenizer", required=True, help="a run's tokenizer/ folder, a hub id or a shipped name")
    parser.add_argument("--revision", help="of a hub id: a branch, a tag or a commit, which is stored with the tokens")
    parser.add_argument("--subfolder", metavar="DIR", help="the folder of the tokenizer within its folder or hub id")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--short-edge", type=int, metavar="N", help="resize the shorter side to N pixels first")
    parser.add_argument("--frames", type=int, metavar="N", help="frames of a video to use (default: all)")
    parser.add_argument("--frame-stride", type=int, default=1, metavar="N", help="use every N-th frame")
    parser.add_argument("--samples-per-shard", type=int, metavar="N", help="files per tar (default: from their number)")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images of one size at once")
    parser.add_argument("--num-workers", type=int, default=4, metavar="N", help="threads that decode ahead")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: cuda where there is one)")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    import torch
    from accelerate.utils import get_cpu_distributed_information  # of any launcher and device

    from toolkit import load_tokenizer
    from toolkit.contracts import DataError
    from toolkit.registry import PluginError, UnknownComponentError
    from toolkit.tokens import decode_tokens, extract_tokens, progress_bar, tokenizer_hash

    process = get_cpu_distributed_information()
    logging.basicConfig(level=logging.ERROR if process.rank else logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and process.world_size > 1:
        device = f"cuda:{process.local_rank % torch.cuda.device_count()}"
    try:
        tokenizer = load_tokenizer(arguments.tokenizer, revision=arguments.revision, subfolder=arguments.subfolder)
        try:
            tokenizer.to(device)
        except (AssertionError, RuntimeError) as error:  # what torch raises for a missing device
            sys.exit(f"error: --device {device}: {str(error).splitlines()[0]}")
        with progress_bar(visible=process.rank == 0) as show:
            shared = dict(tokenizer_hash=tokenizer_hash(tokenizer.source.directory), output=arguments.output,
                          process_index=process.rank, num_processes=process.world_size, on_progress=show)
            if arguments.decode:
                print(f"{decode_tokens(tokenizer, arguments.input, **shared)} files written to {arguments.output}")
                return
            done = extract_tokens(tokenizer, arguments.input, short_edge=arguments.short_edge,
                                  num_frames=arguments.frames, frame_stride=arguments.frame_stride,
                                  samples_per_shard=arguments.samples_per_shard, batch_size=arguments.batch_size,
                                  num_workers=arguments.num_workers, **shared)
    except (DataError, OSError, PluginError, TypeError, UnknownComponentError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues from here.")
    if done.complete and not done.num_samples:
        sys.exit("error: " + "\n  ".join(reason for _, reason in done.unreadable))
    if done.complete or process.rank == 0:
        print(f"{arguments.output}: {done.num_done} of {done.num_shards} shards, {done.num_samples} samples, "
              f"{done.num_tokens} tokens; {len(done.unreadable)} inputs could not be read"
              + ("" if done.complete else "; other processes continue"))


if __name__ == "__main__":
    main()
