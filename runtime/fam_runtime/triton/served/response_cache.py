"""Pictures that were made before, by everything that decides them.

Triton has a response cache of its own. It keeps errors, and the answers to cancelled requests, as
empty successes, and does not look at which outputs were asked for (2.51; the code is still so in
2026); a repeated mistake would be answered with nothing. So the model keeps pictures itself: what
is kept was finished, equal requests meet whether they name a default or not, and the key is a
SHA-256 of the settings, the seed and the bundle's hash among them.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from fam_runtime.triton.served.made_picture import MadePicture


class ResponseCache:
    """The pictures that were asked for last, up to a number of bytes.

    Args:
        capacity_bytes: of pixels; 0 keeps nothing.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._bytes = 0
        self._pictures: OrderedDict[str, MadePicture] = OrderedDict()

    def get(self, settings: Mapping[str, Any]) -> MadePicture | None:
        """The picture with these settings, if it is here."""
        picture = self._pictures.get(key := _key(settings))
        if picture is not None:
            self._pictures.move_to_end(key)
        return picture

    def put(self, settings: Mapping[str, Any], picture: MadePicture) -> None:
        """Keep a picture; those that nobody asked for longest make room."""
        key = _key(settings)
        if picture.rgb.nbytes > self.capacity_bytes or key in self._pictures:
            return
        self._pictures[key] = picture
        self._bytes += picture.rgb.nbytes
        while self._bytes > self.capacity_bytes:
            self._bytes -= self._pictures.popitem(last=False)[1].rgb.nbytes


def _key(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
