"""Stage II of O2-MAGVIT2 at its published size: 17x256x256, batch 128, 1 epoch of 9.3M clips of Panda-70M.

It starts from stage I by inflation. Give data.train.dataset.path and data.val.dataset.path: a folder, a list file, or
with data.train.dataset.type=VideoShards tars ("/data/panda-{0000..9299}.tar", in quotes). What it costs:

    python tools/train.py configs/paper_stage2_video.py --dry-run

One node of 8 GPUs with 80 GB, 2 clips each, 8 times a step:

    accelerate launch --num_processes 8 tools/train.py configs/paper_stage2_video.py \\
        --cfg-options data.train.dataset.path=/data/panda data.val.dataset.path=/data/panda_val

N nodes of 8 GPUs, 8 / N times a step; for N = 4, on node K from 0 to 3, with a work dir that all of them see:

    accelerate launch --num_machines 4 --num_processes 32 --machine_rank K --main_process_ip ADDRESS_OF_NODE_0 \\
        --main_process_port 29500 tools/train.py configs/paper_stage2_video.py --work-dir /shared/paper_stage2_video \\
        --cfg-options data.train.dataset.path=... data.val.dataset.path=... \\
        training.init_from=/shared/paper_stage1_image/tokenizer

With less memory: data.train.batch_size=1, training.activation_checkpointing=True.
O2-MAGVIT2 trained in float32 (training.mixed_precision=no), with another perceptual term: _base_/objectives/magvit2.py.
"""

_base_ = ["_base_/networks/o2_magvit2_video.py", "_base_/objectives/magvit2.py", "_base_/data/videos_17x256.py",
          "_base_/runtime/adam.py"]
data = dict(
    train=dict(dataset=dict(_delete_=True, type="VideoClips", path=None, num_frames=17, size=256, train=True),
               batch_size=2, num_workers=8),
    val=dict(dataset=dict(_delete_=True, type="VideoClips", path=None, num_frames=17, size=256, train=False),
             batch_size=1, num_workers=2))
training = dict(init_from="work_dirs/paper_stage1_image/tokenizer", max_steps=72_656, global_batch_size=128,
                mixed_precision="bf16", log_every=50, validate_every=5000, checkpoints=dict(every=1000, keep=3))
