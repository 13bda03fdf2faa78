"""A ResNet-18 from timm as encoder on the sample clips, frame by frame: stride 1x8x8, 2^18 codes.

Its latents are aligned to EfficientNet-Lite0's features, the frozen network of which the toolkit has pinned weights
(VA-VAE, arXiv:2501.01423). The ResNet starts from random weights; tokenizer.encoder.weights=FILE starts it from yours.

    pip install . ./plugins/timm_encoder && python tools/train.py plugins/timm_encoder/configs/demo_video_timm.py
"""

_base_ = ["../../../configs/_base_/networks/demo_video.py", "../../../configs/_base_/objectives/demo.py",
          "../../../configs/_base_/data/demo_clips.py", "../../../configs/_base_/runtime/demo.py"]
tokenizer = dict(
    encoder=dict(_delete_=True, type="TimmEncoder", backbone="resnet18", level=2),
    decoder=dict(_delete_=True, type="TimmDecoder", filters=16, channel_multipliers=(1, 2, 4, 8)))
objective = dict(losses=dict(alignment=dict(
    loss=dict(type="FeatureAlignment", backbone="tf_efficientnet_lite0", level=2, weights="weights/efficientnet_lite0"),
    weight=0.1)))
training = dict(max_steps=1000, learning_rate=1e-3)
