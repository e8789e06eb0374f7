// An OpenID Connect provider on loopback. Prints its port. Takes the client's redirect URI as its argument.
// Anybody signs in with any password; the name before the first dot of the login says what is known of the address:
// "verified.…" is a verified address, everything else is not.

import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [
      {
        client_id: 'towline',
        client_secret: 'a secret of forty and more characters: 0123456789',
        redirect_uris: [process.argv[2]],
      },
    ],
    pkce: { required: () => true },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    findAccount: (_context, id) => ({
      accountId: id,
      claims: () => ({
        sub: `subject of ${id}`,
        email: id,
        email_verified: id.startsWith('verified.'),
        name: `Name of ${id}`,
      }),
    }),
    cookies: { keys: ['only for tests'] },
  });
  server.on('request', provider.callback());
  console.log(JSON.stringify({ port }));
});
