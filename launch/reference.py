"""Times diffusers' torch transformer in its best configuration: the other side of `python -m launch.bench --reference`.

A program of its own, which reads one case as JSON and prints JSON, so that torch never shares a process with jax: this is the one
file outside the parity tests that imports it, and no file of ours imports this one.
"""

import json
import statistics
import sys
import time

# Attention of diffusers' dispatcher that may be there without a download; the fastest that runs is taken.
BACKENDS = {"cuda": ("native", "_native_cudnn", "_native_flash", "flash", "_flash_3"), "cpu": ("native",)}


def timed(asked: dict) -> dict:
  """Seconds of a forward pass, or of forward and backward, and how they were reached.

  `asked` has: model, the arguments of MotifVideoTransformer3DModel; the shapes latents (B, C, F, H, W) and text (B, T, dim);
  gradient and compile, booleans; seconds to spend.  Padding is trimmed: all T tokens are real.
  """
  import torch
  from diffusers import MotifVideoTransformer3DModel

  device = "cuda" if torch.cuda.is_available() else "cpu"
  dtype = torch.bfloat16 if device == "cuda" else torch.float32
  torch.manual_seed(0)
  with torch.device(device):
    model = MotifVideoTransformer3DModel(**asked["model"]).to(dtype).requires_grad_(asked["gradient"])
    latents, text = (torch.randn(shape, dtype=dtype) for shape in (asked["latents"], asked["text"]))
    t, cotangent = torch.full(asked["latents"][:1], 500.0), torch.randn(1, dtype=dtype)

  def call(network):
    if not asked["gradient"]:
      with torch.no_grad():
        return network(latents, t, text, return_dict=False)[0]
    model.zero_grad(set_to_none=True)
    out = network(latents, t, text, return_dict=False)[0]
    (out * cotangent).sum().backward()
    return out

  wait = torch.cuda.synchronize if device == "cuda" else lambda: None
  checkpointed = _fits_or_checkpoint(torch, model, call)
  speeds, refused = {}, {}
  for name in BACKENDS[device]:
    try:
      model.set_attention_backend(name)
      speeds[name] = min(_seconds(lambda: call(model), wait) for _ in range(2))
    except Exception as e:  # not installed, or not for these shapes
      refused[name] = " ".join(str(e).split())[:100]
  if not speeds:
    raise ValueError(f"no attention of diffusers runs here: {refused}")
  best = min(speeds, key=speeds.get)
  model.set_attention_backend(best)
  network = torch.compile(model) if asked["compile"] else model
  found = {"seconds": _times(lambda: call(network), wait, asked["seconds"]), "attention": best, "uncompiled_s": speeds,
           "refused": refused, "compiled": asked["compile"], "checkpointed": checkpointed, "torch": torch.__version__,
           "parameters": str(dtype).removeprefix("torch."), "torch_device": device}
  if device == "cuda":
    found |= {"peak_bytes": torch.cuda.max_memory_allocated(), "torch_device": torch.cuda.get_device_name()}
  return found


def _fits_or_checkpoint(torch, model, call) -> bool:
  """Whether gradient checkpointing was switched on, because a call does not fit without it."""
  try:
    call(model)
    return False
  except torch.OutOfMemoryError:
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    model.enable_gradient_checkpointing()
    call(model)
    return True


def _seconds(call, wait):
  wait()
  started = time.perf_counter()
  call()
  wait()
  return time.perf_counter() - started


def _times(call, wait, seconds) -> dict:
  one = min(_seconds(call, wait) for _ in range(2))  # the first call compiles
  found = [_seconds(call, wait) for _ in range(max(3, min(20, int(seconds / one))))]
  low, median, high = statistics.quantiles(found, n=4, method="inclusive")
  return {"median": median, "low": low, "high": high, "blocks": len(found), "calls": 1}


if __name__ == "__main__":
  try:
    print(json.dumps(timed(json.load(sys.stdin))))
  except ImportError as e:
    sys.exit(f"the reference needs torch and diffusers (requirements-test.txt has their versions): {e}")
