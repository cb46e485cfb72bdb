"""The letters' way out: each API server takes waiting letters and gives them to the mail server.

A letter is tried again, ever more rarely, until ``[prominence] mail_give_up_hours`` are over. One whose answer was lost
with the connection is sent again: its ``Message-ID`` stays the same, so the recipient's mail server can tell.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP as SMTP_LINES
from email.utils import formatdate, parseaddr
from urllib.parse import urlsplit

import aiosmtplib
from sqlalchemy.exc import SQLAlchemyError

from airflow_prominence.api import mailserver
from airflow_prominence.api.database import DatabaseGone, transact_async
from airflow_prominence.api.errors import ApiError
from airflow_prominence.api.mailserver import MailServer, MailServerTrouble
from airflow_prominence.api.settings import settings
from airflow_prominence.store import letters
from airflow_prominence.store.letters import Letter

log = logging.getLogger(__name__)

#: How often the box is looked into, and how long a server that does not answer is left alone at most (seconds).
LOOK_S = 3.0
LONGEST_PAUSE_S = 300.0

#: A letter's second try comes so long after its first, the others ever more rarely (seconds).
FIRST_RETRY_S = 60.0
LONGEST_RETRY_S = 3600.0

#: However slowly a server answers, a try is over by then: well before another sender may claim the letter (seconds).
SEND_WITHIN_S = 60.0

_REFUSED = (aiosmtplib.SMTPResponseException, aiosmtplib.SMTPRecipientsRefused, MessageError, ValueError)
_TROUBLE = (MailServerTrouble, aiosmtplib.SMTPException, OSError, asyncio.TimeoutError)

_NO_ADDRESS = "notifications: your token names no e-mail address, so no letter can be sent to you"
_BAD_ADDRESS = "notifications: the e-mail address in your token is not one that a letter can be sent to"
_NO_SERVER = "notifications: this service has no mail server, so no letter can be sent"


def check_recipient(email: str | None) -> None:
    """Refuse a submission that asks for letters which could never be sent."""
    if not email:
        raise ApiError(400, _NO_ADDRESS)
    if not letters.is_address(email):
        raise ApiError(400, _BAD_ADDRESS)
    if not mailserver.exists(settings().mail.connection):
        raise ApiError(400, _NO_SERVER)


async def keep() -> None:
    """Send letters until cancelled; a server that does not answer is asked ever more rarely."""
    pause = LOOK_S
    while True:
        try:
            well = await deliver()
        except (SQLAlchemyError, DatabaseGone) as error:
            log.warning("letters have to wait: %s", error)
            well = True
        pause = LOOK_S if well else min(pause * 2, LONGEST_PAUSE_S)
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the servers


async def deliver() -> bool:
    """Send what is due now; ``False`` if the mail server is in trouble and the rest has to wait."""
    waiting = await _claim()
    while waiting is not None:
        letter = waiting
        try:
            async with mailserver.opened(settings().mail.connection) as server:
                while True:
                    await asyncio.wait_for(_send(server, letter), SEND_WITHIN_S)
                    await _sent(letter)
                    waiting = await _claim()
                    if waiting is None:
                        return True
                    letter = waiting
        except _REFUSED as refused:
            # This letter alone; but the conversation may be at any point, so the next one gets one of its own.
            await _failed(letter, mailserver.said(refused))
            waiting = await _claim()
        except _TROUBLE as trouble:
            await _failed(letter, mailserver.said(trouble))
            return False
    return True


async def _send(server: MailServer, letter: Letter) -> None:
    message = _message(settings().mail.sender or server.sender or _default_sender(), letter)
    await server.client.sendmail(parseaddr(str(message["From"]))[1], [letter.recipient], message.as_bytes())


def _default_sender() -> str:
    return f"PROMINENCE <prominence@{urlsplit(settings().public_url).hostname or 'localhost'}>"


def _message(sender: str, letter: Letter) -> EmailMessage:
    message = EmailMessage(SMTP_LINES)
    domain = parseaddr(sender)[1].partition("@")[2] or "localhost"
    message["From"] = sender
    message["To"] = letter.recipient
    message["Subject"] = letter.subject
    message["Date"] = formatdate(letter.created_at)
    message["Message-ID"] = f"<prominence.{letter.id}.{letter.created_at * 1000:.0f}@{domain}>"
    # So that no vacation notice answers.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(f"{letter.body}\n-- \nPROMINENCE at {settings().public_url}\n{settings().kept.sentence()}\n")
    return message


async def _claim() -> Letter | None:
    return await transact_async(lambda session: letters.claim_next(session, time.time()))


async def _sent(letter: Letter) -> None:
    log.info("letter %s was sent at try %s", letter.id, letter.tries)
    await transact_async(lambda session: letters.sent(session, letter, time.time()))


async def _failed(letter: Letter, error: str) -> None:
    now = time.time()
    again_at = now + min(FIRST_RETRY_S * 2 ** min(letter.tries - 1, 10), LONGEST_RETRY_S)
    gives_up = again_at > letter.created_at + settings().mail.give_up_s
    ending = "given up" if gives_up else f"tried again in {again_at - now:.0f} s"
    log.warning("letter %s could not be sent and is %s: %s", letter.id, ending, error)
    await transact_async(lambda session: letters.failed(session, letter, error, now, None if gives_up else again_at))
