"""The file of results: JSON, one entry per case, device, jax and commit; written whole after every case, so a kill costs one."""

import hashlib
import json
import os
import pathlib
import subprocess
import time

import jax

ROOT = pathlib.Path(__file__).parent.parent.parent
WHERE = ("device", "devices", "jax", "commit")  # with name and settings, what makes an entry this one


def here() -> dict:
  """What figures of this process depend on beside their case: the devices, the version of jax, the commit."""
  devices = jax.devices()
  return {"device": devices[0].device_kind, "devices": len(devices), "jax": jax.__version__, "commit": commit()}


def commit() -> str:
  """The commit of the sources, with a digest of them where they differ from it; the digest alone where there is no git."""
  def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
  try:
    head, changed = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--", "motif_jax", "configs")
  except OSError:
    head = changed = None
  if head and changed == "":
    return head
  digest = hashlib.sha256()
  for file in sorted((ROOT / "motif_jax").rglob("*.py")) + sorted((ROOT / "configs").rglob("*.py")):
    digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
  return f"{head}+{digest.hexdigest()[:8]}" if head else f"sources {digest.hexdigest()[:8]}"


class Results:
  """The entries of the file at `path`, plain dicts; a file that is not there has none."""

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    self.entries = []
    if self.path.exists():
      try:
        self.entries = json.loads(self.path.read_text())["entries"]
      except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"{self.path} is no file of bench results ({e}); give another --output, or move it away.") from e

  def find(self, name: str, settings: dict, where: dict) -> dict | None:
    """The entry of a case; None if it has not been measured there."""
    return next((e for e in self.entries if _same(e, name, settings, where)), None)

  def add(self, name: str, settings: dict, where: dict, found: dict) -> dict:
    """The new entry, which replaces one of the same case, after it has reached the disk."""
    settings = json.loads(json.dumps(settings))
    entry = {"name": name, "settings": settings} | where | {"time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())} | found
    self.entries = [e for e in self.entries if not _same(e, name, settings, where)] + [entry]
    self.path.parent.mkdir(parents=True, exist_ok=True)
    scratch = self.path.with_name(f"{self.path.name}.{os.getpid()}")
    with open(scratch, "w") as f:
      json.dump({"entries": self.entries}, f, indent=1)
      f.flush()
      os.fsync(f.fileno())
    os.replace(scratch, self.path)  # a reader, or a kill, finds the old file or the new one
    return entry

  def at(self, where: dict) -> list[dict]:
    """The entries that were measured there."""
    return [e for e in self.entries if all(e[key] == where[key] for key in WHERE)]


def _same(entry, name, settings, where):
  return (entry["name"] == name and entry["settings"] == json.loads(json.dumps(settings))
          and all(entry[key] == where[key] for key in WHERE))
