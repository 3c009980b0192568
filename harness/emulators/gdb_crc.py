"""The checksum that GDB's qCRC packet asks for; without pyOCD, so that the simulator can use it too."""

from __future__ import annotations

import zlib

_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def gdb_crc32(data: bytes) -> int:
    """The CRC-32 of GDB's qCRC packet: polynomial 0x04C11DB7, most significant bit first, from all ones, not inverted.

    That is zlib's CRC with the bits of every byte, and of the result, the other way round.
    """
    reversed_crc = zlib.crc32(data.translate(_REVERSED_BITS)) ^ 0xFFFF_FFFF
    return int(f"{reversed_crc:032b}"[::-1], 2)
