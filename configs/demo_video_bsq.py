"""demo_video.py with another quantizer, and nothing else changed.

BSQ: 18 bits on the unit sphere (arXiv:2406.07548), with the exact entropy of its average at temperature 1/10.

    python tools/train.py configs/demo_video_bsq.py
"""

_base_ = ["_base_/networks/demo_video.py", "_base_/objectives/demo.py", "_base_/data/demo_clips.py",
          "_base_/runtime/demo.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="BSQ", bits=18, inv_temperature=10.0, entropy_groups=1))
