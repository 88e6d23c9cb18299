"""Released weights, read and written.  `from motif_jax import weights; model = weights.load(folder)`, see `weights/model.py`."""

from motif_jax.weights.model import load as load
