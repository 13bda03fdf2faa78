"""Quantizers, and what they share: entropy, straight_through, digits and composite."""

from toolkit.quantizers.bsq import BSQ
from toolkit.quantizers.continuous import KL, Identity
from toolkit.quantizers.fsq import FSQ
from toolkit.quantizers.grouped import Grouped
from toolkit.quantizers.ibq import IBQ
from toolkit.quantizers.lfq import LFQ
from toolkit.quantizers.residual import Residual
from toolkit.quantizers.straight_through import straight_through, unit_length
from toolkit.quantizers.vq import VQ, nearest_codes

__all__ = ["BSQ", "FSQ", "IBQ", "KL", "LFQ", "VQ", "Grouped", "Identity", "Residual", "nearest_codes",
           "straight_through", "unit_length"]
