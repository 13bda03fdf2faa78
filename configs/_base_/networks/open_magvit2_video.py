"""Open-MAGVIT2's video network for 17x128x128 clips: stride 4x8x8, 2^18 codes.

Norms and pooled codes span the whole clip, so it cannot be streamed. configs/README.md has all differences.
"""

network = dict(filters=128, channel_multipliers=(1, 2, 2, 4), num_res_blocks=4,
               temporal_downsample=(False, True, True), temporal_kernel=3, norm_scope="clip", norm_eps=1e-6)
tokenizer = dict(
    encoder=dict(type="MAGVIT2Encoder", first_conv_bias=False, **network),
    quantizer=dict(type="LFQ", bits=18, bit_order="lsb_first"),
    decoder=dict(type="MAGVIT2Decoder", adaptive_norm="pooled", kept_frame="first", **network))
discriminator = dict(type="PatchGANDiscriminator", temporal_kernel=3)
del network
