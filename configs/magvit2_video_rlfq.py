"""magvit2_video.py with another quantizer, and nothing else changed.

Residual LFQ: two levels of 9 bits, the second of half the size (arXiv:2107.03312).

    python tools/train.py configs/magvit2_video_rlfq.py
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_video_rlfq.py
"""

_base_ = ["_base_/networks/magvit2_video.py", "_base_/objectives/magvit2.py", "_base_/data/videos_17x128.py",
          "_base_/runtime/adam.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="Residual", quantizers=[
    dict(type="LFQ", bits=9), dict(type="LFQ", bits=9, scale=0.5)]))
