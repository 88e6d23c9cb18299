"""Where the latents of a causal codec stand: frame 0 makes a latent frame alone, the others in blocks of `strides` pixels."""


class CausalGrid:
  """What every such codec can tell from its `name` and its `strides` (time, height, width)."""

  def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
    """The latent grid (F', H', W') of such a video; ValueError with the nearest sizes that fit."""
    t, h, w = self.strides
    wrong = []
    if frames < 1 or (frames - 1) % t:
      low = max(0, (frames - 1) // t) * t + 1
      wrong.append(f"frames {frames} (expected {t} k + 1; nearest: {low}, {low + t})")
    for axis, size, stride in (("height", height, h), ("width", width, w)):
      if size < 1 or size % stride:
        low = size // stride * stride
        near = f"{low}, {low + stride}" if low > 0 else f"{stride}"
        wrong.append(f"{axis} {size} (expected a multiple of {stride}; nearest: {near})")
    if wrong:
      raise ValueError(f"codec {self.name} with strides {self.strides} cannot code this size: {'; '.join(wrong)}.")
    return (frames - 1) // t + 1, height // h, width // w

  def latent_times(self, frames: int) -> tuple[float, ...]:
    """The time, counted in pixel frames, at the centre of each latent frame."""
    t = self.strides[0]
    return (0.0, *(t * i - (t - 1) / 2 for i in range(1, (frames - 1) // t + 1)))
