"""magvit2_video.py with another quantizer, and nothing else changed.

IBQ: 2^18 codes of 256 channels, all of which learn at every step (arXiv:2412.02692).

    python tools/train.py configs/magvit2_video_ibq.py
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_video_ibq.py
"""

_base_ = ["_base_/networks/magvit2_video.py", "_base_/objectives/magvit2.py", "_base_/data/videos_17x128.py",
          "_base_/runtime/adam.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="IBQ", codebook_size=2**18, dim=256))
