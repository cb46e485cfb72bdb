// A certified OpenID Connect provider with the device flow, open registration and JWT access tokens.
// node issuer.mjs PORT AUDIENCE: says "ready" when it listens; dies with its standard input.
import Provider from 'oidc-provider';

const [port, audience] = process.argv.slice(2);
const groups = { erika: ['fusion'], max: ['fission'] };
const device = 'urn:ietf:params:oauth:grant-type:device_code';

const provider = new Provider(`http://127.0.0.1:${port}`, {
  // The one client of a site that lets nobody register; its secret has what form-encoding must not spoil.
  clients: [{
    client_id: 'the-site', client_secret: 'a secret:with+signs%', grant_types: [device], response_types: [], redirect_uris: [],
  }],
  scopes: ['openid', 'profile', 'email', 'groups'],
  claims: { groups: ['groups'], email: ['email'], profile: ['name'] },
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id, groups: groups[id] ?? [] }) }),
  extraTokenClaims: (_ctx, token) => (
    token.scope.split(' ').includes('groups') ? { groups: groups[token.accountId] ?? [] } : undefined
  ),
  ttl: { AccessToken: 3600, DeviceCode: 600, Grant: 3600, Interaction: 600, Session: 3600 },
  features: {
    deviceFlow: { enabled: true },
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({ audience, scope: 'groups', accessTokenFormat: 'jwt', accessTokenTTL: 3600 }),
    },
  },
});

provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
process.stdin.on('end', () => process.exit(0)).resume();
