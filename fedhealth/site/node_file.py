"""`node/node.toml`: where the coordinator is. Loads nothing heavy, because a node is confined as soon as it is read."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedhealth.config import read_toml


def _has_port(address: str) -> str:
    if not 1 <= int(address.rpartition(":")[2]) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return address


class NodeFile(BaseModel):
    """The whole of `node.toml`.

    Attributes:
        site: this site's id.
        federation: name of the federation, part of every certificate.
        coordinator: host and port.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    site: str
    federation: str
    coordinator: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$"), AfterValidator(_has_port)]

    @property
    def port(self) -> int:
        """The coordinator's port."""
        return int(self.coordinator.rpartition(":")[2])


def load_node_file(folder: Path) -> NodeFile:
    """Read where the coordinator is.

    Args:
        folder: the node's part of the site's state.

    Raises:
        ConfigInvalid: the file is missing or wrong.
    """
    return read_toml(folder / "node.toml", NodeFile, "node file")
