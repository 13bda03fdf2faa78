"""A small MAGVIT-v2 video tokenizer for a laptop's CPU: stride 4x8x8, 2^18 codes, no GAN.

It trains on crops of two of the sample clips, and is scored on a third that it never sees.

    python tools/train.py configs/demo_video.py
"""

_base_ = ["_base_/networks/demo_video.py"]
objective = dict(
    losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0)),
    quantizer=dict(commitment=0.25, per_sample_entropy=[(500, 0.02), (1500, 0.05)],
                   codebook_entropy=[(500, -0.02), (1500, -0.05)]))
data = dict(
    train=dict(dataset=dict(type="InMemoryClips", path=None, num_frames=9, size=32, short_edge=(64, 96),
                            channel_shuffle=0.5),
               batch_size=6),
    val=dict(dataset=dict(type="InMemoryClips", path=None, num_frames=17, size=64, train=False, clips_per_video=7),
             batch_size=7))
metrics = [dict(type="PSNR"), dict(type="SSIM"), dict(type="Codebook")]
training = dict(
    max_steps=2000, learning_rate=3e-3, warmup_steps=100, betas=(0.9, 0.99), ema_decay=0.995, ema_warmup=True,
    log_every=1, validate_every=250, checkpoints=dict(every=250, keep=2))
seed = 0
