"""Images of 256x256. Give data.train.dataset.path and data.val.dataset.path; None means frames of the sample clips."""

data = dict(
    train=dict(dataset=dict(type="Images", path=None, samples="full", size=256, train=True),
               batch_size=16, num_workers=2),
    val=dict(dataset=dict(type="Images", path=None, samples="full", size=256, train=False), batch_size=1))
metrics = [dict(type="PSNR"), dict(type="SSIM"), dict(type="Codebook")]
