"""Frozen published networks with pinned weights, for losses and metrics.

Each is a :class:`Frozen`: it is never trained, is in no checkpoint, and computes in float32 on its input's device.
Inputs are frames (N, C, H, W) or clips (N, C, T, H, W) in [-1, 1].
"""

from toolkit.pretrained.classifiers import classifier
from toolkit.pretrained.frozen import Frozen
from toolkit.pretrained.i3d import i3d_network
from toolkit.pretrained.inception import inception_network
from toolkit.pretrained.perceptual import alexnet_trunk, lpips_network

__all__ = ["Frozen", "alexnet_trunk", "classifier", "i3d_network", "inception_network", "lpips_network"]
