"""When Python looks for objects that only refer to each other, in a process that serves.

Knows the interpreter's collector; knows nothing of what there is. Whatever is built before a server listens, some
half a million objects of torch, pydantic and the models, is there to stay. To look through it took 0.1 to 0.2 s, in
which nobody was answered, every few thousand requests; and a tenth of the event loop's time.
"""

import gc

YOUNG = 10_000
"""So many objects more than at the last look, and the young ones are looked at: those of a hundred requests at once."""


def spare_what_is_built() -> None:
    """From now on, look only at what is made later, and not for every few requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
