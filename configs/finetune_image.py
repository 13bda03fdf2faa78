"""Train the decoder of an imported image tokenizer on one's own folder; its token ids stay what they are.

    python tools/convert_checkpoint.py vq_ds16_c2i.pt work_dirs/llamagen
    python tools/train.py configs/finetune_image.py --cfg-options training.init_from=work_dirs/llamagen \\
        data.train.dataset.path=/my/images data.val.dataset.path=/my/other/images

The network is the imported one: there is no tokenizer section. training.trainable=none trains all of it.
"""

_base_ = ["_base_/objectives/vqgan.py", "_base_/data/images_256.py", "_base_/runtime/adam.py"]
discriminator = dict(type="PatchGANDiscriminator", temporal_kernel=1)
data = dict(train=dict(batch_size=4))
training = dict(init_from=None, trainable=["decoder"], max_steps=10_000, learning_rate=1e-5,
                discriminator_learning_rate=1e-4, betas=(0.5, 0.9), warmup_steps=100)
