"""A mail server on loopback: prints its port, then each mail that it takes as one line of JSON.

Takes mail only from the user "towline" with the password "hunter2", and none for addresses of example.org.
"""

import asyncio
import email
import email.policy
import json

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


def say(value):
    print(json.dumps(value), flush=True)


def authenticate(server, session, envelope, mechanism, auth_data):
    known = isinstance(auth_data, LoginPassword) and auth_data == LoginPassword(b"towline", b"hunter2")
    return AuthResult(success=known, handled=False)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if address.endswith("@example.org"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        say(
            {
                "from": envelope.mail_from,
                "to": envelope.rcpt_tos,
                "headers": {name.lower(): str(value) for name, value in message.items()},
                "text": message.get_content(),
            }
        )
        return "250 OK"


def connection():
    return SMTP(
        Handler(), hostname="127.0.0.1", authenticator=authenticate, auth_required=True, auth_require_tls=False
    )


async def main():
    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    say({"port": server.sockets[0].getsockname()[1]})
    await server.serve_forever()


asyncio.run(main())
