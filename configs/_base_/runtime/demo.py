"""Adam for minutes on a CPU: high rate, short memory of the average."""

training = dict(
    max_steps=2000, learning_rate=3e-3, warmup_steps=100, betas=(0.9, 0.99), ema_decay=0.995, ema_warmup=True,
    log_every=1, validate_every=250, checkpoints=dict(every=250, keep=2))
seed = 0
