"""How the C library deals with memory that is freed."""

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next array: asking the kernel again takes time.

    It changes no number; other allocators (macOS, Windows, musl) are left as they are.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # <malloc.h>
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 2**28)
        libc.mallopt(m_mmap_max, 0)
