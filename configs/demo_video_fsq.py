"""demo_video.py with another quantizer, and nothing else changed.

FSQ: eight levels in each of six channels, 2^18 codes (arXiv:2309.15505).

    python tools/train.py configs/demo_video_fsq.py
"""

_base_ = ["_base_/networks/demo_video.py", "_base_/objectives/demo.py", "_base_/data/demo_clips.py",
          "_base_/runtime/demo.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="FSQ", levels=[8, 8, 8, 8, 8, 8]))
