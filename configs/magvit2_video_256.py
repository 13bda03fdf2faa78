"""MAGVIT-v2 video tokenizer in O2-MAGVIT2's released layout: 17x256x256, stride 4x16x16, 2^18 codes.

    python tools/train.py configs/magvit2_video_256.py
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_video_256.py
"""

_base_ = ["_base_/networks/o2_magvit2_video.py", "_base_/objectives/magvit2.py", "_base_/data/videos_17x256.py",
          "_base_/runtime/adam.py"]
training = dict(activation_checkpointing=True)
