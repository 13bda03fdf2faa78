"""magvit2_video.py with another quantizer, and nothing else changed.

FSQ: eight levels in each of six channels, 2^18 codes (arXiv:2309.15505).

    python tools/train.py configs/magvit2_video_fsq.py
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_video_fsq.py
"""

_base_ = ["_base_/networks/magvit2_video.py", "_base_/objectives/magvit2.py", "_base_/data/videos_17x128.py",
          "_base_/runtime/adam.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="FSQ", levels=[8, 8, 8, 8, 8, 8]))
