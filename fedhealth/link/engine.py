"""Which way the frames of a study's run take between coordinator and site; both ends must have chosen the same."""

from enum import StrEnum


class Engine(StrEnum):
    """How sites are asked.

    Attributes:
        LINK: over the link, directly; the default.
        SUPERLINK: as messages of a stock Flower SuperLink and SuperNodes, whose requests cross the link.
    """

    LINK = "link"
    SUPERLINK = "superlink"
