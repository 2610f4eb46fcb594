"""Where the processes of `torchrun` meet: under a new prefix of its store at every start.

`torchrun` keeps one store for all starts of a launch. After a restart torch finds the addresses of
the dead in it and connects to nobody (pytorch/pytorch issues 135712 and 167288). The count of
restarts is no prefix, as each node has its own. So the first process invents one and answers each
of the others by a token that only this start of it can have written.
"""

import os
import secrets
import time
from collections.abc import Iterator
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore, register_rendezvous_handler

SCHEME = "lungseg"
POLL_S = 0.05


def init_method() -> str | None:
    """Return the address to meet at, as `init_process_group` takes it; None: torch's own way."""
    keeps_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return f"{SCHEME}://" if keeps_store else None


def agree_on_prefix(store: Store, rank: int, world_size: int) -> str:
    """Return the same new text in every process, whatever earlier ones have left in `store`."""
    token = secrets.token_hex(8)
    if rank:
        store.set(f"token/{rank}", token)
        prefix = store.get(f"prefix/{token}").decode()
        store.add(f"joined/{prefix}", 1)
        return prefix
    while store.add(f"joined/{token}", 0) < world_size - 1:
        for other in range(1, world_size):
            if store.check([f"token/{other}"]):  # an earlier one: nobody reads the answer
                store.set(f"prefix/{store.get(f'token/{other}').decode()}", token)
        time.sleep(POLL_S)
    return token


def meet(_url: str, timeout: timedelta, **_options: object) -> Iterator[tuple[Store, int, int]]:
    """Yield store, rank and world size, as `init_process_group` asks for them."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, world_size, is_master=False, timeout=timeout)
    apart = PrefixStore(SCHEME, store)
    yield PrefixStore(agree_on_prefix(apart, rank, world_size), store), rank, world_size


register_rendezvous_handler(SCHEME, meet)
