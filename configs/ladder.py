"""Rates and initialisation of narrower models, from what is set for the 2B model: a rung of the size ladder changes widths alone.

Rates follow the maximal update parametrisation (Yang et al., Tensor Programs V, arXiv 2203.03466, table 3): with Adam the rate of
a matrix whose inputs grow with the width goes with 1 / width, that of biases, norms and of matrices from features of fixed size
stays.  Muon's updates have the spectral norm 0.2 sqrt(larger side) here (the shape factor that matches AdamW's size, arXiv
2502.16982), and feature learning asks for one that does not change with the width (Yang, Simon & Bernstein, arXiv 2310.17813): so
1 / sqrt(width).  `optimizer.rate` is that of width 1536 in each config.

Initialisation needs no change.  Xavier-uniform has the variance 2 / (inputs + outputs), which goes with 1 / width between hidden
layers as there; outputs and modulations start at zero, which any parametrisation allows.  Only the embedders' first matrices,
from features of fixed size, start smaller in wider models than there, where their variance would stay; layer norms follow them.
"""

WIDTH = 1536  # of the model that the rates are set for
# Kernels whose number of inputs is the width, or a multiple: of the blocks, of the second layer of the embedders, of the output.
BLOCKS = r"(dual/video|dual/text|dual|single|decoder)/(attention|cross|mlp)/.*kernel"
OTHERS = r"((dual/video|dual/text|single|decoder|output)/modulation|(text|time)_embed/down|output/proj)/kernel"


def scale_rates(c):
  """Sets `c.optimizer.rates` to what the width of `c` asks for; call it last, after the width and the optimizer are set."""
  if c.model.width == WIDTH:
    return c
  narrower = WIDTH / c.model.width
  of_blocks = narrower**0.5 if c.optimizer.kind == "muon" else narrower
  c.optimizer.rates = ((BLOCKS, of_blocks), (OTHERS, narrower))
  return c
