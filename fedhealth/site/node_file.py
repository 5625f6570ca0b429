"""`node/node.toml`: where the coordinator is. Loads nothing heavy, because a node is confined as soon as it is read."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedhealth.config import MAX_CONFIG_BYTES, parse_toml
from fedhealth.errors import ConfigInvalid
from fedhealth.link.engine import Engine
from fedhealth.link.proxy import Proxy, split_proxy
from fedhealth.secret_file import read_plain_file


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
        proxy: `http://host:port` of the HTTP proxy that everything goes through, None to go directly.
        engine: which way the frames of a study's run take; the coordinator must have chosen the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    site: str
    federation: str
    coordinator: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$"), AfterValidator(_has_port)]
    proxy: Proxy | None = None
    engine: Engine = Engine.LINK

    @property
    def port_outwards(self) -> int:
        """The one port that the node connects to: the proxy's where there is one, or else the coordinator's."""
        return split_proxy(self.proxy)[1] if self.proxy else int(self.coordinator.rpartition(":")[2])


def load_node_file(folder: Path) -> NodeFile:
    """Read where the coordinator is.

    Args:
        folder: the node's part of the site's state.

    Raises:
        ConfigInvalid: the file is missing or wrong.
    """
    path = folder / "node.toml"
    try:
        raw = read_plain_file(path, MAX_CONFIG_BYTES)  # the folder is the node's, and whoever reads it may be root
    except OSError as error:
        raise ConfigInvalid(
            f"node file {path} cannot be read",
            got=error.strerror or "an error",
            wanted="a plain file of at most 256 KiB",
            next_step="Check the path; where no person wrote it, find out what runs as the node's user.",
        ) from error
    return parse_toml(raw, path, NodeFile, "node file")
