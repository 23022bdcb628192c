"""Makes tensors.npz and model.npz here, with OpenAI's DALL-E 0.1 and torch 2.13.0: python make.py

Their `Encoder` and `Decoder`, small and with random weights; under `model.` the weights by their names.
"""

import pathlib

import numpy as np
import torch
from dall_e.decoder import Decoder
from dall_e.encoder import Encoder
from dall_e.utils import map_pixels, unmap_pixels

HERE = pathlib.Path(__file__).parent

torch.manual_seed(0)
small = {"n_hid": 8, "n_blk_per_group": 2, "vocab_size": 24, "device": torch.device("cpu")}
encoder = Encoder(input_channels=3, **small)
decoder = Decoder(output_channels=3, n_init=8, **small)
for part in encoder, decoder:
    for name, weights in part.named_parameters():
        if name.endswith(".b"):
            torch.nn.init.normal_(weights, std=0.1)
image = torch.rand(2, 3, 32, 16)
with torch.no_grad():
    mapped = map_pixels(image)
    logits = encoder(mapped)
    shares = torch.softmax(logits, 1)
    stats = decoder(shares)
    again = unmap_pixels(torch.sigmoid(stats[:, :3]))
found = {"in.image": image, "out.mapped": mapped, "out.logits": logits, "out.stats": stats, "out.image": again}
np.savez(HERE / "tensors.npz", **{name: x.numpy() for name, x in found.items()})
weights = {
    f"{part}.{name}": x.detach().numpy()
    for part, net in (("encoder", encoder), ("decoder", decoder))
    for name, x in net.named_parameters()
}
np.savez(HERE / "model.npz", **weights)
