"""What is in a folder of released weights, and whether this program can run them: python -m launch.inspect FOLDER

FOLDER is a transformer's, or a pipeline's, of which scheduler/, guider/, vae/, text_encoder/ and feature_extractor/ are told too.
Config against what the model needs, cross-attention layout, dtypes, counts and sizes of the values, and, last, the questions that
only the released files can answer.  Needs no memory to speak of; --novalues looks at none but the cross-attention's values.
"""

import argparse
import math
import pathlib
import sys

import jax

from launch import arguments
from motif_jax import outside
from motif_jax.weights import diffusers_config, encoder_folder, folder, frozen, read, survey, table

# What the public sources say of the release (model.md), beside which the findings are put.
RELEASED = {"shift": 15.0, "image_shift": 8.0, "guidance_scale": 8, "adaptive_projected_guidance_rescale": 12, "eta": 0,
            "adaptive_projected_guidance_momentum": 0.1, "adaptive_projected_guidance_norm_dim": [-1, -2, -4]}
PREFIXES = ("text_model.layers.", "encoder.layers.", "layers.")  # under which text encoders were published


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.inspect", __doc__)
  parser.add_argument("folder")
  parser.add_argument("--novalues", action="store_true", help="do not look at the values: no sizes, no search for NaN")
  parser.add_argument("--rope_theta", type=float, help="stands in for that of config.json")
  return parser.parse_args(argv)


def report(path: str, *, values: bool = True, rope_theta: float | None = None) -> tuple[list[str], list[str]]:
  """(the report, in lines, what is wrong with the transformer)."""
  found, faults = folder.examine(path, rope_theta=rope_theta)
  lines = [f"transformer in {found.path}"]
  if found.tensors:
    lines += ["", *files(found.tensors), f"  layout: {found.layout}"]
  if found.config:
    lines += ["", *config_lines(found.config)]
  if found.tensors:
    lines += ["", *part_lines(found.tensors, values)]
  whole = found.path.parent if (pathlib.Path(path) / folder.INDEX).is_file() else None
  beside = {name: said for name, tell in BESIDE.items() if whole and (whole / name).is_dir() and (said := tell(whole / name))}
  for name, said in beside.items():
    lines += ["", f"{name}:", *(f"  {line}" for line in said)]
  lines += ["", "open questions (the release, by public sources, in brackets):", *(f"  {a}" for a in answers(found, beside))]
  verdict = ["the transformer can be used: python -m launch.convert, or motif_jax.weights.load"]
  if faults:
    verdict = [f"{len(faults)} fault(s), the weights cannot be used as they are:", *(f"  - {fault}" for fault in faults)]
  return [*lines, "", *verdict], faults


def files(tensors) -> list[str]:
  """Files, counts and dtypes."""
  names = sorted({tensor.file.name for tensor in tensors.values()})
  size = sum(tensor.stop - tensor.start for tensor in tensors.values())
  count = sum(math.prod(tensor.shape) for tensor in tensors.values())
  return [f"  {len(tensors)} tensors, {count:,} elements, {size / 1e9:.4g} GB in {len(names)} file(s): {', '.join(names[:6])}"
          + (", ..." if len(names) > 6 else ""), f"  dtypes: {survey.dtypes(tensors)}"]


def config_lines(config) -> list[str]:
  """Every key beside the release's value and the default of the class, which describes another model."""
  lines = [f"  {'config.json':<36}{'here':<20}{'release':<20}{'class default':<20}"]
  others = [key for key in config if key not in diffusers_config.KEYS and not key.startswith("_")]
  for key in [*diffusers_config.KEYS, *others]:
    released, default = diffusers_config.KEYS.get(key, ("-", "-"))
    here = tuple(config[key]) if isinstance(config.get(key), list) else config.get(key, "MISSING")
    mark = "" if released in ("-", here) else "  <- not the release's"
    lines.append(f"  {key:<36}{here!s:<20}{released!s:<20}{default!s:<20}".rstrip() + mark)
  return lines


def part_lines(tensors, values) -> list[str]:
  """A line for each part."""
  lines = [f"  {'part':<44}{'tensors':>8}{'elements':>16}  {'dtypes':<12}" + (f"{'rms':>10}{'largest':>10}" if values else "")]
  for name, part in survey.parts(tensors, values=values).items():
    line = f"  {name:<44}{part.tensors:>8}{part.elements:>16,}  {','.join(part.dtypes):<12}"
    line += f"{part.rms:>10.4g}{part.largest:>10.4g}" if values else ""
    lines.append(line + (f"  {part.bad} ARE NOT FINITE" if part.bad else ""))
  return lines


def scheduler(path) -> list[str]:
  """Its class, and the shift that it will really use."""
  said = _json(path / "scheduler_config.json")
  name, lines = said.get("_class_name", "no class"), []
  read_key = "shift" if "Euler" in name else "flow_shift"
  for key in ("shift", "flow_shift"):
    if key in said:
      used = "" if key == read_key else f", which {name} does not read"
      lines.append(f"{key} {said[key]}{used}")
  if read_key not in said:
    lines.append(f"WARNING: {name} reads {read_key}, which is not set, so it shifts by 1 and videos break; set it")
  if "DPM" in name:
    lines.append("WARNING: the pipeline of diffusers 0.42.1 passes sigmas, which this class refuses")
  if said.get("use_dynamic_shifting"):
    lines.append("WARNING: use_dynamic_shifting is on; the release was sampled with a fixed shift")
  return [f"{name}: " + "; ".join(lines)]


def guider(path) -> list[str]:
  """Its class, and what of it differs from the recommended values."""
  said = _json(path / "guider_config.json")
  shown = {key: said[key] for key in RELEASED if key in said}
  lines = [f"{said.get('_class_name', 'no class')}: " + ", ".join(f"{key} {value}" for key, value in shown.items())]
  lines += [f"note: {key} is {value}, recommended is {RELEASED[key]}" for key, value in shown.items() if value != RELEASED[key]]
  return lines


def encoder(path, *kinds: str) -> list[str]:
  """Class, dtypes and counts of an encoder, what its names begin with, and whether it can be used as each of these kinds."""
  said = _json(path / "config.json")
  tensors, faults = read.scan(path)
  tops = sorted({survey.part_of(name).split(".*")[0] for name in tensors})
  kind = said.get("_class_name") or ", ".join(said.get("architectures", ["no class"]))
  lines = [f"{kind}, {len(said)} keys in config.json"]
  lines += [line.strip() for line in files(tensors)] + [f"names begin with: {', '.join(tops[:12])}"] if tensors else []
  return lines + [f"fault: {fault}" for fault in faults] + [f"{kind}: {fits(path, kind)}" for kind in kinds]


def fits(path, kind: str) -> str:
  """Whether the tensors in a folder are those of an encoder of `frozen.KINDS`, all of them and in their shapes."""
  try:
    found = encoder_folder.find(path, **frozen.KINDS[kind])
    faults = table.faults({name: tensor.shape for name, tensor in found.tensors.items()}, table.their_shapes(found.table))
  except (OSError, ValueError) as e:
    faults = str(e).splitlines()
  return "CANNOT be used: " + " ".join(faults) if faults else f"can be used, all {len(found.tensors)} tensors have their places"


def extractor(path) -> list[str]:
  """The size and the normalisation of pictures for the image encoder."""
  said = _json(path / "preprocessor_config.json")
  return [", ".join(f"{key} {said[key]}" for key in ("size", "image_mean", "image_std", "resample", "do_rescale") if key in said)]


BESIDE = {
    "scheduler": scheduler, "guider": guider, "vae": lambda path: encoder(path, "wan_vae"),
    "text_encoder": lambda path: encoder(path, "t5gemma2", "siglip"), "feature_extractor": extractor,
}


def answers(found, beside) -> list[str]:
  """What model.md section 10 asks, a line for each question."""
  config = {key: found.config.get(key, "unknown") for key in ("rope_theta", "num_single_layers", "num_decoder_layers")}
  told = lambda name: " | ".join(beside[name]) if name in beside else "not in this folder"
  return [
      f"1. cross-attention: {found.layout if found.tensors else 'no tensors'}; files: "
      f"{len({tensor.file for tensor in found.tensors.values()})} (two)",
      "2. " + ", ".join(f"{key} {value} ({diffusers_config.KEYS[key][0]})" for key, value in config.items()),
      f"3. scheduler: {told('scheduler')} (FlowMatchEulerDiscreteScheduler, shift {RELEASED['shift']:g}, for image-to-video "
      f"{RELEASED['image_shift']:g})",
      f"   guider: {told('guider')} (scale 8, rescale 12, eta 0, norm dims [-1, -2, -4])",
      f"4. text encoder: {told('text_encoder')} (names under one of {', '.join(PREFIXES)})",
      f"   picture size: {told('feature_extractor')} (896, unverified)",
      f"   VAE: {told('vae')}",
      f"   dtypes of the transformer: {survey.dtypes(found.tensors) if found.tensors else 'none'} (some float32 among bfloat16)",
  ]


def _json(path) -> dict:
  try:
    said = outside.read_json(path)
    return said if isinstance(said, dict) else {}
  except (OSError, ValueError):
    return {}


def main(argv=None) -> None:
  args = parse(argv)
  if not pathlib.Path(args.folder).exists():
    sys.exit(f"error: {args.folder} does not exist; name the folder of a transformer or of a pipeline.")
  jax.config.update("jax_platforms", "cpu")  # nothing is computed: no GPU's memory is taken
  lines, faults = report(args.folder, values=not args.novalues, rope_theta=args.rope_theta)
  print("\n".join(lines))
  sys.exit(1 if faults else 0)


if __name__ == "__main__":
  main()
