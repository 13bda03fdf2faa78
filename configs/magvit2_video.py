"""MAGVIT-v2 video tokenizer: 17x128x128, stride 4x8x8, 2^18 codes (arXiv:2310.05737, fig. 8).

    python tools/train.py configs/magvit2_video.py
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_video.py
"""

_base_ = ["_base_/networks/magvit2_video.py", "_base_/objectives/magvit2.py", "_base_/data/videos_17x128.py",
          "_base_/runtime/adam.py"]
