"""LlamaGen's VQ-16 for 256x256 images: VQGAN with 16384 codes of 8 numbers and unit length (arXiv:2406.06525).

VQ-8 has channel_multipliers (1, 2, 2, 4).
"""

network = dict(filters=128, channel_multipliers=(1, 1, 2, 2, 4), z_channels=256)
tokenizer = dict(encoder=dict(type="VQGANEncoder", num_res_blocks=2, **network),
                 quantizer=dict(type="VQ", codebook_size=16384, dim=8, normalize=True),
                 decoder=dict(type="VQGANDecoder", num_res_blocks=3, **network))
discriminator = dict(type="PatchGANDiscriminator", temporal_kernel=1)
del network
