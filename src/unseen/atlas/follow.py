"""Following a search or a family by mail: nothing is sent but on request, and only the owner of an address can ask.

Asking puts a confirmation mail in the outbox, whoever asks and whatever is known of the address, so that nobody
learns from it who is subscribed. Only the signed link in that mail starts a subscription.
"""

from __future__ import annotations

import dataclasses
import email.message
import email.policy
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from unseen.atlas import search, text
from unseen.atlas.store import Store
from unseen.atlas.tokens import DAY, Tokens
from unseen.lab.errors import UserError

CONFIRM_FOR = 2 * DAY
UNSUBSCRIBE_FOR = 400 * DAY
MOST_ASKED_BY_READER = 10  # a day, from one network address
MOST_MAILS_TO = 3  # confirmation mails a day to one e-mail address
MOST_FOLLOWS = 50  # of one subscriber
POLICY = email.policy.SMTP.clone(cte_type="7bit")  # no server has to know more than ASCII
_LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_LOCAL}@(?:{_LABEL}\.)+{_LABEL}", re.ASCII)


class TooOften(UserError):
    """More requests than one reader may make in a day."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What someone wants to follow: a search with filters, once a day or a week."""

    email: str
    query: str
    filters: Mapping[str, str]
    every: str = "day"

    @property
    def name(self) -> str:
        """As a person would call it."""
        parts = [f"“{self.query}”"] if self.query else []
        parts += [f"{name} {value}" for name, value in sorted(self.filters.items())]
        return ", ".join(parts) or "all papers"


def checked_wish(email: str, query: str, filters: Mapping[str, str], every: str = "day") -> Wish:
    """A wish in order.

    Raises:
        UserError: if the address cannot be one, or a filter takes no such value.
    """
    email = email.strip()
    if len(email) > 254 or not _ADDRESS.fullmatch(email):
        raise UserError("The e-mail address must look like name@example.org.")
    if every not in ("day", "week"):
        raise UserError(f"A digest comes every day or week, not {text.clean(every, 40)!r}.")
    local, _, domain = email.rpartition("@")
    query = text.clean(query, text.LONGEST_QUERY)
    return Wish(f"{local}@{domain.lower()}", query, search.checked_filters(filters), every)


def ask(store: Store, wish: Wish, reader: str, base: str) -> None:
    """Put a confirmation mail in the outbox, unless the address has got enough of them today.

    Args:
        store: the database.
        wish: of `checked_wish`.
        reader: the network address that asks.
        base: the address of this atlas, for links.

    Raises:
        TooOften: if this reader has asked too often.
    """
    tokens = Tokens(store)
    if store.too_often("ask", tokens.blind("reader", reader), MOST_ASKED_BY_READER, DAY):
        raise TooOften("Too many requests from your network address today; try again tomorrow.")
    if store.too_often("mail", tokens.blind("mail", wish.email.lower()), MOST_MAILS_TO, DAY):
        return
    token = tokens.sign("confirm", [wish.email, wish.query, dict(wish.filters), wish.every], CONFIRM_FOR)
    mail = message(
        wish.email,
        "Confirm what you follow in the atlas",
        f"Someone, probably you, asked the atlas of unseen to write to this address once a {wish.every}\n"
        f"about new papers for {wish.name}.\n\nIf it was you, open this link within two days and press the button:\n\n"
        f"{base}/confirm/{token}\n\nIf it was not, do nothing: no further mail will come.\n",
    )
    with store.write() as run:
        run(
            "INSERT INTO outbox(recipient, message, created) VALUES (?, ?, ?)",
            *(wish.email, mail.as_string(), time.time()),
        )


def wish_of(store: Store, token: str) -> Wish | None:
    """What a confirmation link asks for, None if it has expired or is not ours."""
    data = Tokens(store).read("confirm", token)
    return Wish(*data) if data else None


def confirm(store: Store, token: str) -> Wish | None:
    """Start what a confirmation link asks for; doing it twice is doing it once. None if the link is not good."""
    wish = wish_of(store, token)
    if wish is None:
        return None
    filters = json.dumps(dict(wish.filters), sort_keys=True)
    now = time.time()
    with store.write() as run:
        run(
            "INSERT INTO subscribers(email, confirmed, every, created) VALUES (?, 1, ?, ?) "
            "ON CONFLICT (email) DO UPDATE SET confirmed = 1, every = excluded.every",
            *(wish.email, wish.every, now),
        )
        subscriber = run("SELECT id FROM subscribers WHERE email = ?", wish.email)[0]["id"]
        held = run("SELECT count(*) AS n FROM follows WHERE subscriber = ?", subscriber)[0]["n"]
        if held < MOST_FOLLOWS:
            run(
                "INSERT INTO follows(subscriber, query, filters, confirmed, created) VALUES (?, ?, ?, 1, ?) "
                "ON CONFLICT (subscriber, query, filters) DO NOTHING",
                *(subscriber, wish.query, filters, now),
            )
    return wish


def unsubscribe_token(tokens: Tokens, email: str) -> str:
    """The token of the link that ends a subscription."""
    return tokens.sign("unsubscribe", email, UNSUBSCRIBE_FOR)


def unsubscribe(store: Store, token: str) -> bool:
    """Forget a subscriber and all that is kept of them; True if the link is good, also when it was used before."""
    address = Tokens(store).read("unsubscribe", token)
    if address is None:
        return False
    with store.write() as run:
        for row in run("SELECT id FROM subscribers WHERE email = ?", address):
            for table in ("follows", "deliveries", "sent"):
                run(f"DELETE FROM {table} WHERE subscriber = ?", row["id"])
            run("DELETE FROM subscribers WHERE id = ?", row["id"])
        run("DELETE FROM outbox WHERE recipient = ?", address)
    return True


def message(to: str, subject: str, plain: str, rich: str = "", headers: Mapping[str, str] | None = None) -> Any:
    """A mail; a header with a line break in it is refused, so that nobody can add headers.

    Raises:
        UserError: if a header would break into two.
    """
    made = email.message.EmailMessage(policy=POLICY)
    for name, value in {"To": to, "Subject": subject, **(headers or {})}.items():
        check_header(name, value)
        made[name] = value
    made.set_content(plain)
    if rich:
        made.add_alternative(rich, subtype="html")
    return made


def check_header(name: str, value: str) -> None:
    """Make sure that a header is one header.

    Raises:
        UserError: if its value has a line break or another control character.
    """
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise UserError(f"The header {name} of a mail must be one line without control characters.")
