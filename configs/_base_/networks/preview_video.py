"""A MAGVIT-v2 for two CPU cores: stride 4x8x8; wavelet patches of 2x4x4, so no convolution runs at full resolution."""

network = dict(filters=60, channel_multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,),
               temporal_kernel=3, norm_scope="position", num_groups=1, patch_size=(2, 4, 4),
               resample_shortcuts=True)
tokenizer = dict(encoder=dict(type="MAGVIT2Encoder", **network), quantizer=dict(type="LFQ", bits=18),
                 decoder=dict(type="MAGVIT2Decoder", **network))
del network
