"""Conformance checks: one line tests whether a component, also a plugin's, meets its contract.

::

    from toolkit.testing import check_quantizer

    def test_it_meets_its_contract():
        check_quantizer(MyQuantizer(dim=8))

Each takes a built component, works on copies of it, returns nothing, and raises :class:`ContractViolation`
at the first check that fails: which component, which requirement, what was needed, what it did, what to do.
Checks of several processes start two real ones, which are kept for the next check: the class must be at the
top level of a module, and a script must check under ``if __name__ == "__main__"``.
"""

from toolkit.testing.checks import ContractViolation
from toolkit.testing.components import tiny_latents, tiny_pixels
from toolkit.testing.data import check_dataset
from toolkit.testing.metrics import check_metric
from toolkit.testing.networks import check_decoder, check_discriminator, check_encoder
from toolkit.testing.objectives import check_adversarial_loss, check_generator_weight, check_loss
from toolkit.testing.quantizers import check_quantizer

__all__ = ["ContractViolation", "check_adversarial_loss", "check_dataset", "check_decoder", "check_discriminator",
           "check_encoder", "check_generator_weight", "check_loss", "check_metric", "check_quantizer", "tiny_latents",
           "tiny_pixels"]
