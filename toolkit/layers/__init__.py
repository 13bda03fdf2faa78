"""Layers on (B, C, T, H, W), and reductions over processes."""

from toolkit.layers.attention import FrameAttention
from toolkit.layers.batch_norm import JointBatchNorm
from toolkit.layers.blocks import ResBlock, norm_silu_conv, run_block
from toolkit.layers.causal_conv import CausalConv3d, StreamCache
from toolkit.layers.distributed import (
    from_first_process,
    gather_over_processes,
    mean_over_processes,
    num_processes,
    sum_over_processes,
)
from toolkit.layers.norm import (
    ADAPTIVE_NORMS,
    NORMS,
    AdaptiveGroupNorm,
    ClipGroupNorm,
    FrameGroupNorm,
    PooledAdaptiveGroupNorm,
    PositionGroupNorm,
)
from toolkit.layers.patching import PATCHINGS, HaarPatching, SpaceToDepthPatching
from toolkit.layers.resample import (
    DepthToSpaceUpsample,
    ResidualDownsample,
    ResidualUpsample,
    depth_to_space,
    repeat_nearest,
    space_to_depth,
)

__all__ = ["ADAPTIVE_NORMS", "NORMS", "PATCHINGS", "AdaptiveGroupNorm", "CausalConv3d", "ClipGroupNorm",
           "DepthToSpaceUpsample", "FrameAttention", "FrameGroupNorm", "HaarPatching", "JointBatchNorm",
           "PooledAdaptiveGroupNorm", "PositionGroupNorm", "ResBlock", "ResidualDownsample", "ResidualUpsample",
           "SpaceToDepthPatching", "StreamCache", "depth_to_space", "from_first_process", "gather_over_processes",
           "mean_over_processes", "norm_silu_conv", "num_processes", "repeat_nearest", "run_block", "space_to_depth",
           "sum_over_processes"]
