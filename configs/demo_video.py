"""A small MAGVIT-v2 video tokenizer for a laptop's CPU: stride 4x8x8, 2^18 codes, no GAN.

It trains on crops of two of the sample clips, and is scored on a third that it never sees.

    python tools/train.py configs/demo_video.py
"""

_base_ = ["_base_/networks/demo_video.py", "_base_/objectives/demo.py", "_base_/data/demo_clips.py",
          "_base_/runtime/demo.py"]
