"""A video tokenizer for two CPU cores, ``preview_video``: stride 4x8x8, three codebooks of 4096 codes.

It trains on crops of five sample clips, of photos and of synthetic clips, and is scored on three clips that it never
sees. configs/README.md says how to get the photos of configs/photos/train.txt.

    python tools/train.py configs/preview_video.py
"""

_base_ = ["_base_/networks/preview_video.py"]

# 36 bits. Natural clips have few strong components and many weak ones, so some channels have many levels.
levels = [32, 16, 8], [8, 8, 8, 8], [4, 4, 4, 4, 4, 4]
tokenizer = dict(quantizer=dict(_delete_=True, type="Grouped",
                                quantizers=[dict(type="FSQ", levels=group) for group in levels]))
del levels
objective = dict(losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0)))

crops = dict(num_frames=9, size=32)
data = dict(
    train=[
        dict(dataset=dict(type="InMemoryClips", path=None, samples="full", short_edge=(96, 200), channel_shuffle=0.5,
                          **crops), batch_size=3, weight=2.0),
        dict(dataset=dict(type="PhotoClips", path="configs/photos/train.txt", short_edge=(96, 256),
                          channel_shuffle=0.5, **crops), batch_size=3, weight=1.0),
        dict(dataset=dict(type="SyntheticClips", **crops), batch_size=3, weight=1.0)],
    val=dict(dataset=dict(type="InMemoryClips", path=None, samples="full", num_frames=17, size=128, train=False,
                          clips_per_video=2), batch_size=1))
del crops
metrics = [dict(type="PSNR"), dict(type="SSIM"), dict(type="LPIPS", net="vgg"), dict(type="Codebook")]

training = dict(
    max_flops=1.5e14, learning_rate=3e-3, warmup_steps=100, betas=(0.9, 0.99), ema_decay=0.999, ema_warmup=True,
    log_every=50, validate_every=100_000, checkpoints=dict(every=500, keep=2))
seed = 0
