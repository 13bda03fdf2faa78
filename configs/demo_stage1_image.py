"""Stage I in small: an image tokenizer on frames of the sample clips, of which stage II makes a video tokenizer.

    python tools/train.py configs/demo_stage1_image.py
    python tools/train.py configs/demo_stage2_video.py
"""

_base_ = ["_base_/networks/demo_image.py", "_base_/objectives/demo.py", "_base_/data/demo_clips.py",
          "_base_/runtime/demo.py"]
# Single frames, as many pixels a step as of clips.
data = dict(train=dict(dataset=dict(num_frames=1), batch_size=54),
            val=dict(dataset=dict(num_frames=1, clips_per_video=24), batch_size=24))
training = dict(max_steps=1000)
