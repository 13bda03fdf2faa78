"""demo_video.py with another quantizer, and nothing else changed.

VQ: 2^12 learned codes of 16 channels by running averages, from k-means, dead codes revived (arXiv:1711.00937).

    python tools/train.py configs/demo_video_vq.py
"""

_base_ = ["_base_/networks/demo_video.py", "_base_/objectives/demo.py", "_base_/data/demo_clips.py",
          "_base_/runtime/demo.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="VQ", codebook_size=2**12, dim=16,
                                update="ema", decay=0.95, kmeans_iters=10, revive_below=0.1))
