"""O2-MAGVIT2's video network for 17x256x256 clips: stride 4x16x16, 2^18 codes."""

network = dict(filters=128, channel_multipliers=(1, 1, 2, 2, 4), num_res_blocks=4,
               temporal_downsample=(False, False, True, True), temporal_kernel=3)
tokenizer = dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=dict(type="LFQ", bits=18),
                 decoder=dict(type="MAGVIT2Decoder", **network))
discriminator = dict(type="StyleGANDiscriminator", filters=128, channel_multipliers=(2, 4, 4, 4, 4),
                     size=(17, 256, 256), temporal_kernel=3)
del network
