"""VQGAN's objective: L1, LPIPS, a hinge GAN on patches with the adaptive weight (arXiv:2012.09841, eqs. 5 to 7).

VQGAN's code takes half of its hinge loss for the discriminator, hence the 0.5; the quantizer's losses have
their papers' weights. LlamaGen has L2 and no adaptive weight:
objective.losses.reconstruction.loss.type=L2 objective.adversarial.adaptive=none objective.adversarial.weight=0.5.
"""

objective = dict(
    losses=dict(
        reconstruction=dict(loss=dict(type="L1"), weight=1.0),
        perceptual=dict(loss=dict(type="LPIPS", net="vgg"), weight=1.0)),
    adversarial=dict(loss=dict(type="Hinge"), weight=0.8, discriminator_weight=0.5,
                     adaptive=dict(type="AdaptiveWeight")))
