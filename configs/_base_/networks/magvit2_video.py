"""MAGVIT-v2 for 17x128x128 clips: stride 4x8x8, 2^18 codes (arXiv:2310.05737, fig. 8)."""

network = dict(filters=128, channel_multipliers=(1, 2, 2, 4), num_res_blocks=4,
               temporal_downsample=(False, True, True), temporal_kernel=3)
tokenizer = dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=dict(type="LFQ", bits=18),
                 decoder=dict(type="MAGVIT2Decoder", **network))
discriminator = dict(type="StyleGANDiscriminator", filters=128, channel_multipliers=(2, 4, 4, 4, 4),
                     size=(17, 128, 128), temporal_kernel=3)
del network
