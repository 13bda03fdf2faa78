"""``python -m toolkit`` lists the registered parts."""

from toolkit import registry

registry.main()
