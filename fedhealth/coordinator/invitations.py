"""Open invitations: the coordinator keeps a hash of each token, and what it was used for.

A token is good for one request. The first `Join` that shows it binds it: the same bytes again get the same answer, so
that a site that was killed while it waited can ask again; any other request is refused.

Invariants: one file per site, replaced whole and durable before anything is told; hashes are compared in constant time;
an invitation that ended, was used for something else or never was is refused, each with a word of its own in the log.
"""

import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhealth.errors import ConfigInvalid
from fedhealth.link.enrolment import Join, Joined
from fedhealth.pki.invitation import LONGEST_LIFETIME, InvitationInvalid, new_token, token_hash
from fedhealth.pki.names import check_name
from fedhealth.privacy.release import Digest
from fedhealth.secret_file import SECRET_MODE, locked_folder, replace_file


class Turned(StrEnum):
    """Why a site that wants to join is turned away: all that the log says of it."""

    NOT_INVITED = "not-invited"
    WRONG_TOKEN = "wrong-token"  # noqa: S105 - a word, not a token
    ENDED = "invitation-ended"
    USED = "invitation-used"
    BAD_REQUEST = "bad-request"
    OTHER_LEDGER = "other-ledger"


class JoinRefused(InvitationInvalid):
    """A site may not join with this.

    Args:
        why: the word for the log.
    """

    def __init__(self, why: Turned) -> None:
        super().__init__("a site may not join", got=why)
        self.why = why


class _Record(BaseModel):
    """One file: `used_for` is the hash of the request that used it, `answer` what that was answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    token_sha256: Digest
    ends: Annotated[int, Field(ge=0, le=2**53 - 1)]
    used_for: Digest | None = None
    answer: Joined | None = None


class Invitations:
    """The invitations in a folder.

    Args:
        folder: one file per site; must exist. Owned by the commands that invite and revoke, and by the coordinator
            that answers; only the latter changes a file that is there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def invite(self, site: str, now: datetime, lifetime: timedelta) -> tuple[bytes, datetime]:
        """Invite a site; an earlier invitation of it ends.

        Args:
            site: its id.
            now: the present, with time zone.
            lifetime: at most an hour.

        Returns:
            The token, of which only the hash is kept, and the end.

        Raises:
            IdentityInvalid: the name has another form.
            ConfigInvalid: the lifetime does not fit.
        """
        check_name(site)
        if not timedelta(0) < lifetime <= LONGEST_LIFETIME:
            raise ConfigInvalid("an invitation cannot last that long", got=str(lifetime), wanted="at most an hour")
        token, ends = new_token(), datetime.fromtimestamp(int((now + lifetime).timestamp()), UTC)
        with locked_folder(self._folder):
            self._write(site, _Record(token_sha256=token_hash(token), ends=int(ends.timestamp())))
        return token, ends

    def any_open(self, now: datetime) -> bool:
        """Say whether some invitation has not ended."""
        records = (self._find(path.stem) for path in self._folder.glob("*.json"))
        return any(record is not None and now.timestamp() < record.ends for record in records)

    def redeem(self, join: Join, request_sha256: str, now: datetime, admit: Callable[[], Joined]) -> Joined:
        """Return the answer to a request whose token is good, letting the site in the first time.

        Args:
            join: the request.
            request_sha256: of its bytes.
            now: the present, with time zone.
            admit: lets the site in; called once the token is bound to this request, on disk.

        Raises:
            JoinRefused: the token is not good for this.
        """
        with locked_folder(self._folder):
            return self._redeemed(join, request_sha256, now, admit)

    def _redeemed(self, join: Join, request_sha256: str, now: datetime, admit: Callable[[], Joined]) -> Joined:
        record = self._find(join.site)
        if record is None:
            raise JoinRefused(Turned.NOT_INVITED)
        if not hmac.compare_digest(record.token_sha256, token_hash(bytes.fromhex(join.token))):
            raise JoinRefused(Turned.WRONG_TOKEN)
        if now.timestamp() >= record.ends:
            raise JoinRefused(Turned.ENDED)
        if record.used_for is not None and not hmac.compare_digest(record.used_for, request_sha256):
            raise JoinRefused(Turned.USED)
        if record.answer is not None:
            return record.answer
        record = record.model_copy(update={"used_for": request_sha256})
        self._write(join.site, record)
        answer = admit()
        self._write(join.site, record.model_copy(update={"answer": answer}))
        return answer

    def _find(self, site: str) -> _Record | None:
        try:
            return _Record.model_validate_json(self._path(site).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ConfigInvalid(
                f"the invitation of site '{site}' is damaged",
                got=str(self._path(site)),
                next_step="Invite the site again: fedhealth coordinator invite --help",
            ) from error

    def _path(self, site: str) -> Path:
        return self._folder / f"{check_name(site)}.json"

    def _write(self, site: str, record: _Record) -> None:
        replace_file(self._path(site), record.model_dump_json().encode(), SECRET_MODE)
