"""magvit2_video.py with another quantizer, and nothing else changed.

VQ: 2^18 learned codes of 256 channels by running averages, from k-means, dead codes revived (arXiv:1711.00937).

    python tools/train.py configs/magvit2_video_vq.py
    accelerate launch --num_processes 8 tools/train.py configs/magvit2_video_vq.py
"""

_base_ = ["_base_/networks/magvit2_video.py", "_base_/objectives/magvit2.py", "_base_/data/videos_17x128.py",
          "_base_/runtime/adam.py"]
tokenizer = dict(quantizer=dict(_delete_=True, type="VQ", codebook_size=2**18, dim=256,
                                update="ema", kmeans_iters=10, revive_below=0.1))
