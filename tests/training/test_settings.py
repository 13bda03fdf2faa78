import pytest

from toolkit.config import ConfigError
from toolkit.training.settings import Settings, value_at


@pytest.mark.parametrize(("config", "words"), [
    (dict(), "needs max_steps or max_flops, got neither"),
    (dict(max_steps=2000, max_flops=1e15),
     r"not both .2000 and 1e\+15.; set one to None, such as training.max_steps=None"),
    *((dict(max_flops=flops), "max_flops must be a number above 0") for flops in (0, -1e9, float("inf"), "1e15")),
    (dict(max_steps=10, lerning_rate=1e-3), "no key 'lerning_rate' .did you mean 'learning_rate'"),
    (dict(max_steps=0), "max_steps must be"),
    (dict(max_steps=1.5), "max_steps must be"),
    (dict(max_steps=10, gradient_accumulation_steps=0), "gradient_accumulation_steps must be"),
    (dict(max_steps=10, global_batch_size=0), "global_batch_size must be"),
    (dict(max_steps=10, global_batch_size=8, gradient_accumulation_steps=2),
     "takes global_batch_size or gradient_accumulation_steps, not both"),
    (dict(max_steps=10, checkpoints=dict(evry=3)), "training.checkpoints has no key 'evry'"),
    (dict(max_steps=10, checkpoints=dict(keep=0)), "training.checkpoints.keep must be"),
    (dict(max_steps=10, checkpoints=5), "training.checkpoints is dict"),
    (dict(max_steps=10, checkpoints=dict(every="often")), "training.checkpoints.every must be"),
    (dict(max_steps=10, learning_rate="fast"), "learning_rate must be a number"),
    (dict(max_steps=10, warmup_steps=-1), "warmup_steps must be a number"),
    (dict(max_steps=10, betas=0.9), "betas must be two numbers"),
    (dict(max_steps=10, activation_checkpointing="off"), "activation_checkpointing must be True, False or a number"),
    (dict(max_steps=10, activation_checkpointing=-1), "activation_checkpointing must be True, False or a number"),
    (dict(max_steps=10, mixed_precision="fp8"), "mixed_precision must be"),
    (dict(max_steps=10, ema_decay=1.0), "ema_decay must lie in"),
    (dict(max_steps=10, gradient_clipping=dict(encoder=1.0)), "gradient_clipping.*encoder"),
    (dict(max_steps=10, gradient_clipping=dict(tokenizer=0)), "above 0"),
    (dict(max_steps=10, max_skipped_in_a_row=-1), "max_skipped_in_a_row"),
    *((dict(max_steps=10, quantization=schedule), r"training.quantization must lie in \[0, 1\]")
      for schedule in (-0.1, 1.5, [(0, 0.0), (5, 2.0)])),
    (dict(max_steps=10, quantization="half"), "training.quantization is a number or a list of points"),
])
def test_config_errors_name_the_key(config, words):
    with pytest.raises(ConfigError, match=words):
        Settings.from_config(config)


def test_the_config_section_becomes_settings():
    settings = Settings.from_config(dict(max_steps=10, ema_decay=None, checkpoints=dict(every=5, keep=None)))
    assert (settings.max_steps, settings.ema_decay) == (10, None)
    assert (settings.checkpoints.every, settings.checkpoints.keep) == (5, None)


@pytest.mark.parametrize(("batch_size", "processes", "micro"), [(2, 8, 8), (2, 32, 2), (128, 1, 1), (1, 128, 1)])
def test_a_global_batch_is_divided_among_processes(batch_size, processes, micro):
    settings = Settings(max_steps=10, global_batch_size=128)
    settings = settings.with_micro_batches([batch_size] * 2, num_processes=processes)
    assert settings.gradient_accumulation_steps == micro


def test_without_a_global_batch_nothing_changes():
    settings = Settings(max_steps=10, gradient_accumulation_steps=3)
    assert settings.with_micro_batches([4, 5], num_processes=7) == settings


@pytest.mark.parametrize(("batch_sizes", "processes", "words"), [
    ([32], 16, r"multiple of .* got 32 x 16; set data.train.batch_size=8"),
    ([3], 8, r"got 3 x 8; set data.train.batch_size=2"),
    ([1], 3, r"got 1 x 3; take a number of processes that divides 128"),
    ([1], 256, r"got 1 x 256; take a number of processes that divides 128"),
    ([2, 4], 1, r"one batch_size in all of data.train, got \[2, 4\]"),
])
def test_a_global_batch_that_cannot_be_divided_is_an_error_with_advice(batch_sizes, processes, words):
    with pytest.raises(ConfigError, match=words):
        Settings(max_steps=10, global_batch_size=128).with_micro_batches(batch_sizes, num_processes=processes)


@pytest.mark.parametrize(("schedule", "expected"), [
    (0.25, {0: 0.25, 10**9: 0.25}), (2, {0: 2.0}), ([(100, 0.3)], {0: 0.3, 100: 0.3, 200: 0.3}),
    # 1 + 2 * (s - 10) / 10, then 3 - 4 * (s - 20) / 20
    ([(10, 1.0), (20, 3.0), (40, -1.0)], {0: 1.0, 10: 1.0, 15: 2.0, 20: 3.0, 25: 2.0, 30: 1.0, 40: -1.0, 99: -1.0}),
    # two points at one step are a jump
    ([(0, 0.0), (5, 1.0), (5, 4.0), (10, 4.0), (10, 0.5)], {4: 0.8, 5: 4.0, 9: 4.0, 10: 0.5, 11: 0.5}),
    ([(500, 0.0), (500, 1.0)], {0: 0.0, 499: 0.0, 500: 1.0, 501: 1.0})])
def test_a_schedule_is_linear_between_its_points_and_constant_outside(schedule, expected):
    values = {step: value_at(schedule, step) for step in expected}
    assert values == expected and all(isinstance(value, float) for value in values.values())


@pytest.mark.parametrize("schedule", ["0.1", None, [], [(10, 1.0), (5, 2.0)], [(0, 1.0, 2.0)], {"a": 1}, [1, 2],
                                      [(0, "a")], [("a", 1.0)]])
def test_malformed_schedules_are_refused(schedule):
    with pytest.raises(ConfigError, match="a schedule is a number or a list of points"):
        value_at(schedule, 0)
