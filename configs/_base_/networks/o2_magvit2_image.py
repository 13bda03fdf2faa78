"""O2-MAGVIT2's image network for 256x256 images: stride 16x16, 2^18 codes; its kernels have no time."""

network = dict(filters=128, channel_multipliers=(1, 1, 2, 2, 4), num_res_blocks=4,
               temporal_downsample=(False, False, False, False), temporal_kernel=1)
tokenizer = dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=dict(type="LFQ", bits=18),
                 decoder=dict(type="MAGVIT2Decoder", **network))
discriminator = dict(type="StyleGANDiscriminator", filters=128, channel_multipliers=(2, 2, 4, 4, 4),
                     size=(1, 256, 256), temporal_kernel=1)
del network
