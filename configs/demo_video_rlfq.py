"""demo_video.py with another quantizer, and nothing else changed.

Residual LFQ: two levels of 9 bits, the second of half the size (arXiv:2107.03312).

    python tools/train.py configs/demo_video_rlfq.py
"""

_base_ = ["_base_/networks/demo_video.py", "_base_/objectives/demo.py", "_base_/data/demo_clips.py",
          "_base_/runtime/demo.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="Residual", quantizers=[
    dict(type="LFQ", bits=9), dict(type="LFQ", bits=9, scale=0.5)]))
