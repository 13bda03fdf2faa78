"""Train the decoder of an imported video tokenizer on one's own folder; its token ids stay what they are.

    python tools/convert_checkpoint.py pytorch_model.bin work_dirs/o2
    python tools/train.py configs/finetune_video.py --cfg-options training.init_from=work_dirs/o2 \\
        data.train.dataset.path=/my/clips data.val.dataset.path=/my/other/clips

The network is the imported one: there is no tokenizer section. training.trainable=none trains all of it.
"""

_base_ = ["_base_/objectives/vqgan.py", "_base_/data/videos_17x128.py", "_base_/runtime/adam.py"]
discriminator = dict(type="PatchGANDiscriminator", temporal_kernel=3)
data = dict(train=dict(batch_size=1))
training = dict(init_from=None, trainable=["decoder"], max_steps=10_000, learning_rate=1e-5,
                discriminator_learning_rate=1e-4, betas=(0.5, 0.9), warmup_steps=100)
