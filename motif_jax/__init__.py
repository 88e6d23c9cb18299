"""Motif-Video in JAX: a text-to-video and image-to-video diffusion transformer (arXiv 2604.16503), trained and sampled.

Sizes are named by one letter everywhere:
  B batch    F, H, W latent grid (frames, height, width)    C latent channels
  L video tokens = F * (H / 2) * (W / 2) with the released patch    K video tokens kept by a route, of L
  S context tokens = I image tokens, then T text tokens    N heads    D width
Time runs from t = 0 (data) to t = 1 (noise); velocity = noise - data.
"""
