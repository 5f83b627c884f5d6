"""What AEDAT 2 and 3 share: cameras by name."""

import re

from spimm.data.formats.source import Size

# (H, W) in pixels. Source: iniVation, AEDAT file formats, and the chip classes of jAER.
CAMERAS: dict[str, Size] = {
    "dvs128": (128, 128),
    "davis128": (128, 128),
    "davis208": (192, 208),
    "davis240": (180, 240),
    "davis346": (260, 346),
    "davis640": (480, 640),
}


def camera(lines: list[str], key: str) -> tuple[str | None, Size | None]:
    """Name and size of the camera in the first header line whose key matches the pattern `key`; None if unknown."""
    for line in lines:
        stated, colon, value = line.removeprefix("#").partition(":")
        if colon and value.strip() and re.fullmatch(key, stated.strip(), re.IGNORECASE):
            stated = value.split()[0]
            found = re.search(r"(dvs|davis?)(\d{1,4})", stated, re.IGNORECASE)
            name = ("dvs" if found[1].lower() == "dvs" else "davis") + found[2] if found else stated
            return name, CAMERAS.get(name)
    return None, None
