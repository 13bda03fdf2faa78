"""Clips of 17x256x256. Give data.train.dataset.path and data.val.dataset.path; None means the sample clips."""

data = dict(
    train=dict(dataset=dict(type="VideoClips", path=None, samples="full", num_frames=17, size=256, train=True),
               batch_size=4, num_workers=2),
    val=dict(dataset=dict(type="VideoClips", path=None, samples="full", num_frames=17, size=256, train=False),
             batch_size=1))
metrics = [dict(type="PSNR"), dict(type="SSIM"), dict(type="Codebook")]
