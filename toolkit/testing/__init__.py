"""The laws of the contracts, as functions: one line tests a part, one's own or a plugin's.

::

    from toolkit.testing import check_quantizer

    def test_it_keeps_the_contract():
        check_quantizer(MyQuantizer(dim=8))

Each takes a built part, works on copies of it, returns nothing, and raises :class:`ContractViolation`
at the first law that is broken: which part, which law, what was needed, what was seen, what to do.
Laws of several processes start two real ones, which are kept for the next check: the part's class
must then be at the top level of a module, and a script must check under ``if __name__ == "__main__"``.
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
