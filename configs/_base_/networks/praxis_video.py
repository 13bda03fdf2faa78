"""MAGVIT-v2 for 17x128x128 clips as in Google's layer code (praxis, layers/video): stride 4x8x8, 2^18 codes.

Convolutions repeat the border and the first frame, strided ones have kernels of 4; the first bit is the least
significant. configs/README.md has all differences.
"""

network = dict(filters=128, channel_multipliers=(1, 2, 2, 4), num_res_blocks=4,
               temporal_downsample=(False, True, True), temporal_kernel=3, padding="replicate", norm_eps=1e-6)
tokenizer = dict(
    encoder=dict(type="MAGVIT2Encoder", downsample_kernel=4, first_conv_bias=False, **network),
    quantizer=dict(type="LFQ", bits=18, bit_order="lsb_first", sign_of_zero=1),
    decoder=dict(type="MAGVIT2Decoder", **network))
discriminator = dict(type="StyleGANDiscriminator", filters=128, channel_multipliers=(2, 4, 4, 4, 4),
                     size=(17, 128, 128), temporal_kernel=3, blur_padding="same")
del network
