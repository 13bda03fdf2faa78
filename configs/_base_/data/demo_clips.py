"""Crops of 9x32x32 of two sample clips, kept in memory; 17x64x64 of a third to be scored on."""

data = dict(
    train=dict(dataset=dict(type="InMemoryClips", path=None, num_frames=9, size=32, short_edge=(64, 96),
                            channel_shuffle=0.5),
               batch_size=6),
    val=dict(dataset=dict(type="InMemoryClips", path=None, num_frames=17, size=64, train=False, clips_per_video=7),
             batch_size=7))
metrics = [dict(type="PSNR"), dict(type="SSIM"), dict(type="Codebook")]
