"""Images and clips together: one tokenizer, a discriminator for each, drawn in turns of two to one.

    python tools/train.py configs/demo_joint.py
"""

_base_ = ["_base_/networks/demo_video.py"]
discriminator = dict(
    image=dict(type="StyleGANDiscriminator", filters=16, channel_multipliers=(2, 4), size=(1, 32, 32),
               temporal_kernel=1),
    video=dict(type="StyleGANDiscriminator", filters=16, channel_multipliers=(2, 4), size=(5, 32, 32),
               temporal_kernel=3))
objective = dict(
    losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0),
                perceptual=dict(loss=dict(type="LPIPS", net="alex"), weight=0.1)),
    quantizer=dict(LFQ=dict(commitment=0.25, per_sample_entropy=0.03, codebook_entropy=-0.03)),
    adversarial=dict(loss=dict(type="NonSaturating"), weight=[(500, 0.0), (500, 0.02)],
                     discriminator_weight=[(400, 0.0), (400, 1.0)],
                     lecam=dict(weight=0.001, decay=0.999), r1=dict(weight=0.5, every=20)))
data = dict(
    train=[dict(dataset=dict(type="InMemoryClips", path=None, num_frames=5, size=32, short_edge=(64, 96)),
                batch_size=4, weight=2.0),
           dict(dataset=dict(type="Images", path=None, size=32, short_edge=(64, 96)), batch_size=8, weight=1.0)],
    val=[dict(dataset=dict(type="InMemoryClips", path=None, num_frames=17, size=64, train=False, clips_per_video=7),
              batch_size=7),
         dict(dataset=dict(type="Images", path=None, size=64, train=False), batch_size=8)])
metrics = [dict(type="PSNR"), dict(type="SSIM"), dict(type="Codebook")]
training = dict(
    max_steps=2000, learning_rate=2e-3, discriminator_learning_rate=2e-4, warmup_steps=100, betas=(0.9, 0.99),
    ema_decay=0.995, ema_warmup=True, log_every=1, validate_every=400, checkpoints=dict(every=400, keep=2))
seed = 0
