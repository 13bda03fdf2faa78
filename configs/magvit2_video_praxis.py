"""MAGVIT-v2 video tokenizer by Google's layer code: 17x128x128, stride 4x8x8, 2^18 codes (arXiv:2310.05737).

    python tools/train.py configs/magvit2_video_praxis.py
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_video_praxis.py
"""

_base_ = ["_base_/networks/praxis_video.py", "_base_/objectives/magvit2.py", "_base_/data/videos_17x128.py",
          "_base_/runtime/adam.py"]
# LeCAM of each logit, R1 of 10 at every step; the rest of the objective is the same.
objective = dict(adversarial=dict(lecam=dict(per_logit=True), r1=dict(weight=10.0, every=1)))
