"""A small MAGVIT-v2 for CPUs: stride 4x8x8, 2^18 codes; few channels, so few groups of channels to normalise."""

network = dict(filters=8, channel_multipliers=(1, 2, 4, 8), num_res_blocks=1,
               temporal_downsample=(False, True, True), temporal_kernel=3, num_groups=4)
tokenizer = dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=dict(type="LFQ", bits=18),
                 decoder=dict(type="MAGVIT2Decoder", **network))
del network
