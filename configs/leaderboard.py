"""The network, data and objective of all entries of benchmarks/leaderboards/small.py; alone it trains LFQ with 12 bits.

Entries exchange the quantizer or one setting. The decoder gets latents at first, and codes from step 400 on.

    python tools/train.py configs/leaderboard.py
"""

_base_ = ["_base_/networks/demo_video.py", "_base_/objectives/demo.py", "_base_/data/demo_clips.py",
          "_base_/runtime/demo.py"]
tokenizer = dict(quantizer=dict(bits=12))
objective = dict(losses=dict(perceptual=dict(loss=dict(type="LPIPS", net="alex"), weight=0.1)))
training = dict(max_steps=None, max_flops=1e13, quantization=[(0, 0.0), (400, 1.0)])
