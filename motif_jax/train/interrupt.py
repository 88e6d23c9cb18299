"""Being told to stop: the signal of a scheduler, or Control-C, on any process."""

import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Signals within so many seconds are one: a scheduler sends its own to a whole group of processes, and their parent passes it on.
TOGETHER = 1.0


class Interrupt:
  """A context in which the first SIGINT or SIGTERM is only noted; a second one ends the process at once, and nothing is saved.

  `agreed` must be called at every step on every process: a signal reaches one process, and all of them must leave after the same
  step, because the others would wait for ever in its next collective.
  """

  def __init__(self, mesh: Mesh):
    self._noted, self._pending = False, None
    self._local = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    self._sharding = NamedSharding(mesh, P(mesh.axis_names))  # one vote per device
    self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, P()))

  def __enter__(self):
    self._old = {number: signal.signal(number, self._note) for number in SIGNALS}
    # Python runs its handlers between two instructions of the main thread, which may be waiting in a collective: the bytes that
    # the system's handler writes reach another thread without it.
    self._reading, writing = os.pipe()
    os.set_blocking(writing, False)
    self._writing, self._old_writing = writing, signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    self._second = threading.Thread(target=self._leave_at_the_second, daemon=True)
    self._second.start()
    return self

  def __exit__(self, *_):
    signal.set_wakeup_fd(self._old_writing)
    for number, handler in self._old.items():
      signal.signal(number, handler)
    os.close(self._writing)  # ends the thread
    self._second.join()
    os.close(self._reading)

  def agreed(self) -> bool:
    """Whether some process was told to stop: the same answer on all of them.

    With several processes it is the answer to the votes of the call before, which the devices have counted meanwhile: asking for
    those of this one would wait for the step under way.
    """
    if jax.process_count() == 1:
      return self._noted
    votes = jax.make_array_from_process_local_data(self._sharding, np.full(len(self._local), self._noted))
    counted, self._pending = self._pending, self._any(votes)
    return counted is not None and bool(counted)

  def _note(self, number, frame):
    self._noted = True

  def _leave_at_the_second(self):
    first = None
    while byte := os.read(self._reading, 1):
      if byte[0] in SIGNALS:
        first = first or time.monotonic()
        if time.monotonic() - first > TOGETHER:
          os._exit(128 + byte[0])
