"""The image version of demo_video: the same widths, kernels without time, stride 8x8."""

network = dict(filters=8, channel_multipliers=(1, 2, 4, 8), num_res_blocks=1,
               temporal_downsample=(False, False, False), temporal_kernel=1, num_groups=4)
tokenizer = dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=dict(type="LFQ", bits=18),
                 decoder=dict(type="MAGVIT2Decoder", **network))
del network
