"""O2-MAGVIT2's optimization: Adam (0, 0.99), warm-up then cosine, EMA 0.999.

The discriminator learns at 0.8 of the rate.
"""

training = dict(
    max_steps=100_000, learning_rate=1e-4, discriminator_learning_rate=0.8e-4, betas=(0.0, 0.99), eps=1e-8,
    warmup_steps=500, ema_decay=0.999, gradient_accumulation_steps=1, mixed_precision="no",
    activation_checkpointing=False, log_every=10, validate_every=2500, checkpoints=dict(every=2500, keep=3))
seed = 0
