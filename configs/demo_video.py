"""A small MAGVIT-v2 video tokenizer for a laptop's CPU: 9x64x64 clips, stride 4x8x8, 2^18 codes, no GAN.

It trains on two of the sample clips and is scored on a third that it never sees.

    python tools/train.py configs/demo_video.py
"""

network = dict(filters=16, channel_multipliers=(1, 2, 4, 8), num_res_blocks=1,
               temporal_downsample=(False, True, True), temporal_kernel=3)
tokenizer = dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=dict(type="LFQ", bits=18),
                 decoder=dict(type="MAGVIT2Decoder", **network))
del network
objective = dict(losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0)))
data = dict(
    train=dict(dataset=dict(type="VideoClips", num_frames=9, size=64, short_edge=(64, 144)), batch_size=4, num_workers=1),
    val=dict(dataset=dict(type="VideoClips", num_frames=17, size=64, train=False, clips_per_video=7), batch_size=7))
metrics = [dict(type="PSNR"), dict(type="SSIM"), dict(type="Codebook")]
training = dict(max_steps=700, learning_rate=1e-3, warmup_steps=100, ema_decay=0.99, log_every=1, validate_every=100,
                checkpoints=dict(every=100, keep=2))
seed = 0
