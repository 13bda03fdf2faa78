"""Images of colour gradients, made as they are read."""

import torch

from toolkit import Dataset


class Gradients(Dataset):
    """``length`` images of ``size`` x ``size`` pixels."""

    modality = "image"

    def __init__(self, *, size: int = 16, length: int = 8):
        self.size, self.length = size, length

    @property
    def sample_size(self):
        return 1, self.size, self.size

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        ramp = torch.linspace(-1, 1, self.size)
        color = torch.tensor([1.0, -1.0, (index % 8) / 8]).view(3, 1, 1, 1)
        return {"pixels": color * ramp.expand(1, self.size, self.size), "key": f"gradient {index}"}
