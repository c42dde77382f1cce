"""Mails through a real SMTP server on loopback: what they say, that each goes out once, and what failures do."""

import datetime
import email
import email.policy
import json
import os
import re
import socket
import threading
import time
from collections import Counter
from html import escape

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

pytest.importorskip("aiosmtpd", reason="needs the extra test")

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from unseen import cli
from unseen.atlas import digest, follow, importing, sources, text
from unseen.atlas.sources import Record
from unseen.atlas.tokens import Tokens
from unseen.lab.errors import UserError

DAY = datetime.datetime.now(datetime.UTC).date().isoformat()
BASE = "https://atlas.example"


class Inbox:
    """Keeps what arrives; `answer(recipient)` may give another answer than 250."""

    def __init__(self, answer=lambda to: "250 kept"):
        self.mails, self.answer = [], answer

    async def handle_DATA(self, server, session, envelope):
        said = self.answer(envelope.rcpt_tos[0])
        if said.startswith("250"):
            self.mails.append(
                (envelope.rcpt_tos[0], email.message_from_bytes(envelope.content, policy=email.policy.default))
            )
        return said


class Plain(Controller):
    """On a port that the system chooses."""

    def factory(self):
        return SMTP(self.handler, **self.SMTP_kwargs)

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@pytest.fixture
def inbox():
    box = Inbox()
    controller = Plain(box, hostname="127.0.0.1", port=0)
    controller.start()
    box.port = controller.port
    yield box
    controller.stop()


def settings(port, **others):
    return digest.Smtp("127.0.0.1", port, "atlas@atlas.example", starttls=False, timeout=2.0, **others)


def subscribe(store, count=1, query="", filters=None, every="day"):
    for i in range(count):
        wish = follow.checked_wish(f"reader{i}@example.org", query, filters or {}, every)
        token = Tokens(store).sign("confirm", [wish.email, wish.query, dict(wish.filters), every], 60.0)
        assert follow.confirm(store, token)


def new_paper(store, title="A new paper on <b>grokking</b>", body="It studies grokking & more."):
    importing.bring_in(store, sources.Source("x", lambda p: iter([("", Record(title, body, year=2026))])))


def send(store, port, day=DAY, **others):
    return digest.send_all(store, settings(port, **others), BASE, day)


# What a digest says ----------------------------------------------------------------------------------------


def test_a_digest_has_what_is_new_in_both_forms_and_a_way_out(store, inbox):
    new_paper(store)
    subscribe(store, 1, "grokking", {"origin": "imported"})
    assert send(store, inbox.port).line() == "1 sent, 0 with nothing new, 0 had theirs"
    ((to, mail),) = inbox.mails
    assert to == mail["To"] == "reader0@example.org"
    plain = mail.get_body(("plain",)).get_content()
    rich = mail.get_body(("html",)).get_content()
    assert "A new paper on <b>grokking</b>" in plain and "It studies grokking & more." in plain
    assert "A new paper on &lt;b&gt;grokking&lt;/b&gt;" in rich and "<b>" not in rich
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = re.fullmatch(r"<https://atlas\.example/unsubscribe/(\S+)>", mail["List-Unsubscribe"]).group(1)
    assert link in plain
    assert follow.unsubscribe(store, link)
    assert send(store, inbox.port).sent == 0


def test_a_paper_comes_once_and_only_if_it_matches(store, inbox):
    new_paper(store)
    subscribe(store, 1, "", {"origin": "imported"})
    assert send(store, inbox.port).sent == 1
    tomorrow = (datetime.date.fromisoformat(DAY) + datetime.timedelta(days=1)).isoformat()
    assert send(store, inbox.port, tomorrow).line() == "0 sent, 1 with nothing new, 0 had theirs"
    assert len(inbox.mails) == 1


def test_weekly_digests_are_a_week_apart_and_a_missed_day_is_made_up_for(store, inbox):
    new_paper(store)
    subscribe(store, 1, "", {"origin": "imported"}, "week")
    days = [(datetime.date.fromisoformat(DAY) + datetime.timedelta(days=i)).isoformat() for i in range(16)]
    assert send(store, inbox.port, days[0]).sent == 1
    new_paper(store, "The next paper")
    assert [len(list(digest.due(store, day))) for day in days[1:8]] == [0] * 6 + [1]
    assert send(store, inbox.port, days[9]).sent == 1  # nobody ran it on days 7 and 8
    assert not list(digest.due(store, days[15]))
    assert ["The next paper" in mail.get_body(("plain",)).get_content() for _, mail in inbox.mails] == [False, True]


def test_dry_run_writes_and_sends_nothing(store, tmp_path, capsys):
    new_paper(store)
    subscribe(store, 3, "", {"origin": "imported"})
    out = tmp_path / "out"
    assert cli.main(["digest", "--dry-run", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"3 digests in {out}, none sent\n"
    mail = email.message_from_bytes(next(out.glob("*.eml")).read_bytes(), policy=email.policy.default)
    assert mail["To"].endswith("@example.org") and "unsubscribe" in mail["List-Unsubscribe"]
    assert not store.read("SELECT 1 AS x FROM deliveries")


@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=120), st.emails().filter(follow._ADDRESS.fullmatch))
def test_any_text_arrives_as_it_is_in_lines_that_mail_allows(store, said, address):
    composer = digest.Composer(store, BASE, "Ätlas <a@b.org>", DAY)
    title = text.clean(said) or "x"
    hit = {"key": "k", "title": title, "snippet": f"{title} {title}" * 3, "verdicts": {"supported": 2}}
    composer._found["q", "{}"] = [hit]
    made = composer.compose({"id": 1, "email": address, "every": "day"}, [{"query": "q", "filters": "{}"}], set())
    assert max(map(len, made.mail.partition(b"\r\n\r\n")[2].split(b"\r\n"))) <= 76 and made.mail.isascii()
    mail = email.message_from_bytes(made.mail, policy=email.policy.default)
    assert not mail.defects and [part.defects for part in mail.walk()] == [[], [], []]
    link = mail["List-Unsubscribe"].strip("<>")
    plain, rich = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))
    lines = ["New for “q”", "", title, f"  {hit['snippet']}", "  Claims: 2 supported", f"  {BASE}/papers/k", ""]
    assert plain.replace("\r\n", "\n").split("\n") == [*lines, f"Unsubscribe: {link}", ""]
    assert f'href="{link}"' in rich and escape(hit["snippet"]) in rich
    assert (mail["To"], mail["From"]) == (address, "Ätlas <a@b.org>") and mail["Subject"].startswith("1 paper on")


def test_headers_cannot_be_added():
    for header in ({"X": "a\r\nBcc: b@c.org"}, {"X": "a\nb"}, {"X": "a\x00"}):
        with pytest.raises(UserError, match="one line"):
            follow.message("a@b.org", "s", "t", "", header)
    with pytest.raises(UserError, match="one line"):
        follow.message("a@b.org\nBcc: c@d.org", "s", "t")
    with pytest.raises(UserError, match="one line"):
        digest._header({"To": "a@b.org\r\nBcc: c@d.org"})
    hostile = follow.message("a@b.org", "s", ".\r\n.\r\nRCPT TO:<c@d.org>", "")
    assert list(hostile) and hostile["Bcc"] is None


def test_lines_of_dots_arrive_as_they_are(store, inbox):
    post = digest.Post(settings(inbox.port))
    mail = follow.message("a@b.org", "dots", "first\n.\n..\n.end\n")
    post.send("a@b.org", mail.as_bytes(), lambda: None)
    post.close()
    assert inbox.mails[0][1].get_content().splitlines() == ["first", ".", "..", ".end"]


# Confirmations ---------------------------------------------------------------------------------------------


def test_confirmations_wait_in_the_outbox_and_go_first(store, inbox):
    follow.ask(store, follow.checked_wish("ann@example.org", "grokking", {}), "198.51.100.7", BASE)
    assert send(store, inbox.port).sent == 1
    ((to, mail),) = inbox.mails
    assert to == "ann@example.org" and mail["From"] == "atlas@atlas.example"
    token = re.search(r"/confirm/(\S+)", mail.get_content()).group(1)
    assert follow.confirm(store, token).query == "grokking"
    assert send(store, inbox.port).sent == 0 or len(inbox.mails) == 2  # the first digest may follow at once


def test_tokens_are_for_one_purpose_and_expire(store):
    tokens = Tokens(store)
    good = tokens.sign("confirm", ["a@b.org", "", {}, "day"], 60.0)
    assert tokens.read("confirm", good) and tokens.read("unsubscribe", good) is None
    assert tokens.read("confirm", tokens.sign("confirm", 1, -1.0)) is None
    head, tail = good.split(".")
    for bad in ("", ".", head, good + "A", head[:-2] + "AA." + tail, "é", "a" * 10_000, good.replace(".", "..")):
        assert tokens.read("confirm", bad) is None
    assert Tokens(store).read("confirm", good)  # the secret lasts


# Failures --------------------------------------------------------------------------------------------------


def test_a_server_that_says_later_gets_the_mail_later_and_no_is_final(store, inbox):
    new_paper(store)
    subscribe(store, 3, "", {"origin": "imported"})
    answers = {"reader0@example.org": "451 later", "reader1@example.org": "550 no such reader"}
    inbox.answer = lambda to: answers.get(to, "250 ok")
    done = send(store, inbox.port)
    assert (done.sent, len(done.failed)) == (1, 2)
    inbox.answer = lambda to: "250 ok"
    assert send(store, inbox.port).sent == 1
    assert Counter(to for to, _ in inbox.mails) == {"reader2@example.org": 1, "reader0@example.org": 1}


def test_no_server_loses_nothing(store, inbox, monkeypatch):
    monkeypatch.setattr(digest, "_PAUSE", 0.01)
    new_paper(store)
    subscribe(store, 2, "", {"origin": "imported"})
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(digest.Unreachable, match="does not answer"):
            send(store, closed.getsockname()[1])
    assert send(store, inbox.port).sent == 2


@pytest.mark.parametrize("until", ["greeting", "MAIL", "RCPT", "DATA", "body", "end"])
def test_a_server_that_drops_half_way(store, inbox, monkeypatch, until):
    """Before the line that ends the mail: sent by the next run. After it: perhaps taken, so never sent twice."""
    monkeypatch.setattr(digest, "_PAUSE", 0.01)
    monkeypatch.setattr(digest, "_ATTEMPTS", 1)
    new_paper(store)
    subscribe(store, 1, "", {"origin": "imported"})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_talk_until, args=(listening, until))
        thread.start()
        try:
            done = send(store, listening.getsockname()[1])
            assert done.unsure + len(done.failed) == 1
            assert done.unsure == (until == "end") or until == "body"  # a small mail may be out before the drop is seen
        except digest.Unreachable:
            assert until == "greeting"
        thread.join(5)
    again = send(store, inbox.port)
    assert again.sent + again.unsure == 1
    assert again.unsure == (until == "end") or until == "body"
    assert len(inbox.mails) == again.sent


def _talk_until(listening, until):
    connection, _ = listening.accept()
    with connection, connection.makefile("rwb", buffering=0) as talk:
        if until == "greeting":
            return
        talk.write(b"220 hello\r\n")
        in_body = False
        while line := talk.readline():
            if in_body:
                if until == "body" or (until == "end" and line == b".\r\n"):
                    return
                continue
            word = line.split()[0].decode().upper().partition(":")[0]
            if word == until:
                return
            if word == "DATA":
                in_body = True
            talk.write(b"354 go\r\n" if word == "DATA" else b"250 ok\r\n")


def test_a_server_that_stalls_is_given_up_in_time(store, monkeypatch):
    monkeypatch.setattr(digest, "_ATTEMPTS", 1)
    new_paper(store)
    subscribe(store, 1, "", {"origin": "imported"})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        start = time.monotonic()
        slow = digest.Smtp("127.0.0.1", listening.getsockname()[1], starttls=False, timeout=0.3)
        with pytest.raises(digest.Unreachable):
            digest.send_all(store, slow, BASE, DAY)
        assert time.monotonic() - start < 5
    assert not store.read("SELECT 1 AS x FROM deliveries")


def test_without_encryption_nothing_goes_out(store, inbox):
    new_paper(store)
    subscribe(store, 1, "", {"origin": "imported"})
    with pytest.raises(digest.Unreachable, match="STARTTLS"):
        digest.send_all(store, digest.Smtp("127.0.0.1", inbox.port), BASE, DAY)
    assert not inbox.mails


def test_starttls(store, tmp_path):
    x509 = pytest.importorskip("cryptography.x509")
    import ssl

    certificate, key = _certificate(x509, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    box = Inbox()
    controller = Plain(box, hostname="127.0.0.1", port=0, tls_context=context, require_starttls=True)
    controller.start()
    port = controller.port
    new_paper(store)
    subscribe(store, 1, "", {"origin": "imported"})
    with pytest.raises(digest.Unreachable):  # a certificate that nobody vouches for
        digest.send_all(store, digest.Smtp("localhost", port), BASE, DAY)
    assert digest.send_all(store, digest.Smtp("localhost", port, ca=str(certificate)), BASE, DAY).sent == 1
    controller.stop()
    assert len(box.mails) == 1


def _certificate(x509, folder):
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "c.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "k.pem").write_bytes(private)
    return folder / "c.pem", folder / "k.pem"


# Once ------------------------------------------------------------------------------------------------------


def test_running_twice_and_two_at_once_sends_once(store, inbox):
    new_paper(store)
    subscribe(store, 5, "", {"origin": "imported"})
    assert send(store, inbox.port).sent == 5
    assert send(store, inbox.port).line() == "0 sent, 0 with nothing new, 5 had theirs"
    with store.alone("digest"), pytest.raises(UserError, match="Another process"):
        send(store, inbox.port)
    assert Counter(to for to, _ in inbox.mails) == {f"reader{i}@example.org": 1 for i in range(5)}


def test_killed_at_random_moments_everybody_gets_one(store, inbox, killed):
    """Twenty runs killed with SIGKILL while they send, then one that ends: nobody gets two mails, nobody none.

    A kill just between a commit and a mail's last line leaves it unsure: that is counted, and the next day makes up.
    """
    new_paper(store)
    count = 100
    subscribe(store, count, "", {"origin": "imported"})
    smtp = f"digest.Smtp('127.0.0.1', {inbox.port}, 'atlas@atlas.example', starttls=False)"
    code = f"digest.send_all(Store({store.url!r}), {smtp}, {BASE!r}, {DAY!r})"

    def for_a_mail():
        before, since = len(inbox.mails), time.monotonic()
        while len(inbox.mails) == before and time.monotonic() - since < 1:
            time.sleep(0.001)

    kills = sum(killed(code, for_a_mail) for _ in range(20))
    assert kills >= 5 and len(inbox.mails) >= 5
    done = send(store, inbox.port)
    arrived = Counter(to for to, _ in inbox.mails)
    unsure = store.read("SELECT count(*) AS n FROM deliveries WHERE state = 'sending'")[0]["n"]
    assert max(arrived.values()) == 1 and count - unsure <= len(arrived) <= count
    assert done.unsure == unsure <= kills
    tomorrow = (datetime.date.fromisoformat(DAY) + datetime.timedelta(days=1)).isoformat()
    assert send(store, inbox.port, tomorrow).sent == unsure
    assert len({to for to, _ in inbox.mails}) == count


# Settings --------------------------------------------------------------------------------------------------


def test_settings_from_file_and_environment(store, monkeypatch, capsys):
    home = os.environ["UNSEEN_HOME"]
    assert cli.main(["digest", "--send"]) == 2 and "UNSEEN_SMTP_HOST" in capsys.readouterr().err
    with open(f"{home}/smtp.json", "w") as file:
        json.dump({"host": "mail.example", "port": 25, "starttls": False}, file)
    monkeypatch.setenv("UNSEEN_SMTP_PORT", "2525")
    monkeypatch.setenv("UNSEEN_SMTP_PASSWORD", "hunter2")
    read = digest.Smtp.read()
    assert (read.host, read.port, read.starttls, read.password) == ("mail.example", 2525, False, "hunter2")
    assert "hunter2" not in repr(read)
    for wrong in ('{"hots": 1}', "[", '{"host": "a", "port": "x"}'):
        with open(f"{home}/smtp.json", "w") as file:
            file.write(wrong)
        monkeypatch.delenv("UNSEEN_SMTP_PORT", raising=False)
        with pytest.raises(UserError):
            digest.Smtp.read()


@pytest.mark.parametrize("argv", [[], ["--send", "--dry-run"], ["--dry-run", "--day", "soon"]])
def test_command_refuses_in_one_sentence(store, argv, capsys):
    assert cli.main(["digest", *argv]) == 2
    assert capsys.readouterr().err.count("\n") == 1
