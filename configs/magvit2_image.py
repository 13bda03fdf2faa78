"""MAGVIT-v2 image tokenizer (stage I of O2-MAGVIT2): 256x256, stride 16x16, 2^18 codes (arXiv:2310.05737).

    python tools/train.py configs/magvit2_image.py --cfg-options data.train.dataset.path=/data/images
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_image.py
"""

_base_ = ["_base_/networks/o2_magvit2_image.py", "_base_/objectives/magvit2.py", "_base_/data/images_256.py",
          "_base_/runtime/adam.py"]
