"""Stage II in small: demo_video.py's tokenizer, started from stage I's by inflation instead of from nothing.

    python tools/train.py configs/demo_stage1_image.py
    python tools/train.py configs/demo_stage2_video.py
"""

_base_ = ["_base_/networks/demo_video.py", "_base_/objectives/demo.py", "_base_/data/demo_clips.py",
          "_base_/runtime/demo.py"]
training = dict(init_from="work_dirs/demo_stage1_image/tokenizer", max_steps=1000)
