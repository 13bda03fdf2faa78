"""Open-MAGVIT2 (github.com/TencentARC/SEED-Voken): Lightning checkpoints of the image and video tokenizers."""

from __future__ import annotations

from toolkit.interop.layout import MAGVIT2Layout
from toolkit.registry import CHECKPOINTS


@CHECKPOINTS.register_module(name="open_magvit2")
class OpenMAGVIT2(MAGVIT2Layout):
    """Open-MAGVIT2's tokenizers; LFQ has no tensors there.

    An image model's norms and pooled codes see a frame, which is the whole image; a video model's the clip.
    """

    marks = r"(encoder|decoder)\.mid_block\.|decoder\.adaptive\.|decoder\.up\.\d+\.upsample\.conv1\."
    rules = {
        r"^encoder\.levels\.(\d+)\.blocks": r"encoder.down.\1.block", r"^encoder\.levels\.(\d+)": r"encoder.down.\1",
        r"^decoder\.levels\.(\d+)\.blocks": r"decoder.up.\1.block",
        r"^decoder\.levels\.(\d+)\.upsample\.conv": r"decoder.up.\1.upsample.conv1",
        r"^decoder\.levels\.(\d+)\.norm": r"decoder.adaptive.\1",
        r"\.mid\.": ".mid_block.", r"\.shortcut\.": ".nin_shortcut."}
    video_rules = {r"(\.(?:conv\w*|nin_shortcut|downsample))\.(weight|bias)$": r"\1.conv_1.\2"}
    from_finest = True
    encoder_options = {"first_conv_bias": False}
    decoder_options = {"adaptive_norm": "pooled", "kept_frame": "first"}
    quantizer_options = {"bit_order": "lsb_first"}

    def inspect(self) -> None:
        super().inspect()
        self.options = {"norm_scope": "clip" if self.video else "frame", "norm_eps": 1e-6}
