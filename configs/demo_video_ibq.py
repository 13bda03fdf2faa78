"""demo_video.py with another quantizer, and nothing else changed.

IBQ: 2^12 codes of 16 channels, all of which learn at every step (arXiv:2412.02692).

    python tools/train.py configs/demo_video_ibq.py
"""

_base_ = ["_base_/networks/demo_video.py", "_base_/objectives/demo.py", "_base_/data/demo_clips.py",
          "_base_/runtime/demo.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="IBQ", codebook_size=2**12, dim=16))
