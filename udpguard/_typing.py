"""What `typing` has of late, on Python 3.11 too, without typing_extensions; and annotations that load nothing.

That would be a dependency, and take a fifth of the time of `import udpguard`. Type checkers know it by themselves.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ForwardRef

if TYPE_CHECKING:
    from typing_extensions import Buffer, TypeIs, override
else:
    if sys.version_info >= (3, 12):
        from collections.abc import Buffer
        from typing import override
    else:
        Buffer = bytes | bytearray | memoryview

        def override(method):
            """Say that a method overrides another one (PEP 698)."""
            method.__override__ = True
            return method

    if sys.version_info >= (3, 13):
        from typing import TypeIs
    else:
        from typing import TypeGuard as TypeIs

__all__ = ["Buffer", "TypeIs", "later", "override"]


def later(public_name: str) -> ForwardRef:
    """What stands for a public name in annotations, where its module is loaded only when it is needed.

    `typing.get_type_hints` follows it, and loads the module then.
    """
    return ForwardRef(f"__import__('udpguard').{public_name}")
