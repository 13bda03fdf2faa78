"""Open-MAGVIT2's image network for 256x256 images: stride 16x16, 2^18 codes; its kernels have no time.

Norms and pooled codes see one frame, which is the whole image. configs/README.md has all differences.
"""

network = dict(filters=128, channel_multipliers=(1, 1, 2, 2, 4), num_res_blocks=4,
               temporal_downsample=(False, False, False, False), temporal_kernel=1, norm_eps=1e-6)
tokenizer = dict(
    encoder=dict(type="MAGVIT2Encoder", first_conv_bias=False, **network),
    quantizer=dict(type="LFQ", bits=18, bit_order="lsb_first"),
    decoder=dict(type="MAGVIT2Decoder", adaptive_norm="pooled", kept_frame="first", **network))
discriminator = dict(type="PatchGANDiscriminator", temporal_kernel=1)
del network
