"""magvit2_video.py with another quantizer, and nothing else changed.

BSQ: 18 bits on the unit sphere (arXiv:2406.07548).

    python tools/train.py configs/magvit2_video_bsq.py
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_video_bsq.py
"""

_base_ = ["_base_/networks/magvit2_video.py", "_base_/objectives/magvit2.py", "_base_/data/videos_17x128.py",
          "_base_/runtime/adam.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="BSQ", bits=18))
