"""MAGVIT-v2's objective with O2-MAGVIT2's weights; entropies start at three times their weight.

The perceptual term is LPIPS on VGG-16. MAGVIT used the distance of a ResNet-50's logits, O2-MAGVIT2
a VGG-16's; with weights of either at hand:
loss=dict(_delete_=True, type="LogitDistance", backbone="resnet50", weights="resnet50.safetensors").
R1's 0.5 per step, taken every 20th step, is O2-MAGVIT2's unscaled 10.
"""

objective = dict(
    losses=dict(
        reconstruction=dict(loss=dict(type="L2"), weight=5.0),
        perceptual=dict(loss=dict(type="LPIPS", net="vgg"), weight=0.1)),
    quantizer=dict(LFQ=dict(
        commitment=0.25,
        per_sample_entropy=[(0, 0.3), (2000, 0.1)],
        codebook_entropy=[(0, -0.3), (2000, -0.1)])),
    adversarial=dict(
        loss=dict(type="NonSaturating"), weight=0.1, discriminator_weight=1.0,
        lecam=dict(weight=0.001, decay=0.999, per_logit=False),
        r1=dict(weight=0.5, every=20)))
