"""L2 and LFQ's losses for the small demos without a GAN; the entropies start low, as the runs are short."""

objective = dict(
    losses=dict(reconstruction=dict(loss=dict(type="L2"), weight=5.0)),
    quantizer=dict(LFQ=dict(commitment=0.25, per_sample_entropy=[(500, 0.02), (1500, 0.05)],
                            codebook_entropy=[(500, -0.02), (1500, -0.05)])))
