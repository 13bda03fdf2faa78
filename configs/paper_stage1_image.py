"""Stage I of O2-MAGVIT2 at its published size: images of 256x256, batch 256, 10 epochs of OpenImages' 8M.

Give data.train.dataset.path and data.val.dataset.path: a folder, a list file, or with
data.train.dataset.type=ImageShards tars ("/data/openimages-{0000..0799}.tar", in quotes). What it costs:

    python tools/train.py configs/paper_stage1_image.py --dry-run

One node of 8 GPUs, 32 images each:

    accelerate launch --num_processes 8 tools/train.py configs/paper_stage1_image.py \\
        --cfg-options data.train.dataset.path=/data/openimages data.val.dataset.path=/data/openimages_val

N nodes of 8 GPUs, 32 / N images each; for N = 4, on node K from 0 to 3, with a work dir that all of them see:

    accelerate launch --num_machines 4 --num_processes 32 --machine_rank K --main_process_ip ADDRESS_OF_NODE_0 \\
        --main_process_port 29500 tools/train.py configs/paper_stage1_image.py --work-dir /shared/paper_stage1_image \\
        --cfg-options data.train.batch_size=8 data.train.dataset.path=... data.val.dataset.path=...

O2-MAGVIT2 trained in float32 (training.mixed_precision=no), with another perceptual term: _base_/objectives/magvit2.py.
"""

_base_ = ["_base_/networks/o2_magvit2_image.py", "_base_/objectives/magvit2.py", "_base_/data/images_256.py",
          "_base_/runtime/adam.py"]
data = dict(
    train=dict(dataset=dict(_delete_=True, type="Images", path=None, size=256, train=True), batch_size=32,
               num_workers=8),
    val=dict(dataset=dict(_delete_=True, type="Images", path=None, size=256, train=False), batch_size=8,
             num_workers=2))
training = dict(max_steps=312_500, global_batch_size=256, mixed_precision="bf16", log_every=50,
                validate_every=12_500, checkpoints=dict(every=2500, keep=3))
