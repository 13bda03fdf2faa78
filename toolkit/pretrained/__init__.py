"""Frozen published networks under pinned weights, for losses and metrics alike.

Every one comes as a :class:`Frozen`: it cannot be trained, is in no checkpoint, and computes in
float32 where its input is. Their inputs are frames ``(N, C, H, W)`` or clips ``(N, C, T, H, W)`` in [-1, 1].
"""

from toolkit.pretrained.classifiers import Classifier, classifier, efficientnet_lite0
from toolkit.pretrained.frozen import Frozen
from toolkit.pretrained.i3d import I3D, i3d_kinetics400, i3d_network
from toolkit.pretrained.inception import Inception, inception_2015, inception_network
from toolkit.pretrained.perceptual import LPIPSDistance, alexnet_trunk, lpips_network, vgg16_trunk

__all__ = ["I3D", "Classifier", "Frozen", "Inception", "LPIPSDistance", "alexnet_trunk", "classifier",
           "efficientnet_lite0", "i3d_kinetics400", "i3d_network", "inception_2015", "inception_network",
           "lpips_network", "vgg16_trunk"]
