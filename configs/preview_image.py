"""The shipped image tokenizer ``preview_image``: stride 8, three codebooks of 4096 codes, trained on two cores.

It trains on crops of photos, of frames of five sample clips and of synthetic images, and is scored on 44 photos that
it never sees: those of configs/photos/held_out.txt. configs/README.md says how to get both.

    python tools/train.py configs/preview_image.py
"""

network = dict(filters=100, channel_multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(False,),
               temporal_kernel=1, norm_scope="position", num_groups=1, patch_size=(1, 4, 4),
               resample_shortcuts=True)
# 36 bits. Natural images have few strong components and many weak ones, so some channels have many levels.
levels = [32, 16, 8], [8, 8, 8, 8], [4, 4, 4, 4, 4, 4]
tokenizer = dict(
    encoder=dict(type="MAGVIT2Encoder", **network),
    quantizer=dict(type="Grouped", quantizers=[dict(type="FSQ", levels=group) for group in levels]),
    decoder=dict(type="MAGVIT2Decoder", **network))
del network, levels

objective = dict(losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0)))

data = dict(
    train=[
        dict(dataset=dict(type="PhotoClips", path="configs/photos/train.txt", num_frames=1, size=32,
                          short_edge=(96, 256), channel_shuffle=0.5), batch_size=16, weight=2.0),
        dict(dataset=dict(type="InMemoryClips", path=None, samples="full", num_frames=1, size=32,
                          short_edge=(96, 256), channel_shuffle=0.5), batch_size=16, weight=1.0),
        dict(dataset=dict(type="SyntheticClips", num_frames=1, size=32), batch_size=16, weight=1.0)],
    val=dict(dataset=dict(type="Images", path="configs/photos/held_out.txt", size=128, train=False), batch_size=1))
metrics = [dict(type="PSNR"), dict(type="SSIM"), dict(type="LPIPS", net="vgg"), dict(type="Codebook")]

training = dict(
    max_flops=1.5e14, learning_rate=3e-3, warmup_steps=100, betas=(0.9, 0.99), ema_decay=0.999, ema_warmup=True,
    log_every=50, validate_every=100_000, checkpoints=dict(every=500, keep=2))
seed = 0
