import pytest

from toolkit.config import ConfigError
from toolkit.training.settings import Settings


@pytest.mark.parametrize(("config", "words"), [
    (dict(), "needs max_steps"),
    (dict(max_steps=10, lerning_rate=1e-3), "no key 'lerning_rate' .did you mean 'learning_rate'"),
    (dict(max_steps=0), "max_steps must be"),
    (dict(max_steps=1.5), "max_steps must be"),
    (dict(max_steps=10, gradient_accumulation_steps=0), "gradient_accumulation_steps must be"),
    (dict(max_steps=10, checkpoints=dict(evry=3)), "training.checkpoints has no key 'evry'"),
    (dict(max_steps=10, checkpoints=dict(keep=0)), "training.checkpoints.keep must be"),
    (dict(max_steps=10, checkpoints=5), "training.checkpoints is dict"),
    (dict(max_steps=10, checkpoints=dict(every="often")), "training.checkpoints.every must be"),
    (dict(max_steps=10, learning_rate="fast"), "learning_rate must be a number"),
    (dict(max_steps=10, warmup_steps=-1), "warmup_steps must be a number"),
    (dict(max_steps=10, betas=0.9), "betas are two numbers"),
    (dict(max_steps=10, activation_checkpointing="off"), "activation_checkpointing must be True, False or a number"),
    (dict(max_steps=10, activation_checkpointing=-1), "activation_checkpointing must be True, False or a number"),
    (dict(max_steps=10, mixed_precision="fp8"), "mixed_precision is"),
    (dict(max_steps=10, ema_decay=1.0), "ema_decay lies in"),
])
def test_misfits_are_named(config, words):
    with pytest.raises(ConfigError, match=words):
        Settings.from_config(config)


def test_the_section_is_read():
    settings = Settings.from_config(dict(max_steps=10, ema_decay=None, checkpoints=dict(every=5, keep=None)))
    assert (settings.max_steps, settings.ema_decay) == (10, None)
    assert (settings.checkpoints.every, settings.checkpoints.keep) == (5, None)
