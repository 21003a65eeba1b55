"""A client as Authlib's users write it.

Arguments: issuer, client_id, client_secret (empty: a public client), redirect_uri.
Prints the authorization URL, reads the address that the browser was sent to, prints what came of it as JSON.
"""

import json
import sys

import requests
from authlib.common.security import generate_token
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.jwk import KeySet

issuer, client_id, client_secret, redirect_uri = sys.argv[1:]
metadata = requests.get(issuer + "/.well-known/openid-configuration", timeout=10).json()
assert metadata["issuer"] == issuer

session = OAuth2Session(
    client_id,
    client_secret or None,
    redirect_uri=redirect_uri,
    scope="openid email offline_access",
    code_challenge_method="S256",
    token_endpoint_auth_method="client_secret_basic" if client_secret else "none",
    revocation_endpoint_auth_method="client_secret_basic" if client_secret else "none",
)
nonce, verifier = generate_token(), generate_token(48)
url, state = session.create_authorization_url(
    metadata["authorization_endpoint"], code_verifier=verifier, nonce=nonce
)
print(url, flush=True)
answer = sys.stdin.readline().strip()

endpoint = metadata["token_endpoint"]
token = session.fetch_token(endpoint, authorization_response=answer, state=state, code_verifier=verifier)
report = {}

keys = KeySet.import_key_set(requests.get(metadata["jwks_uri"], timeout=10).json())
id_token = jwt.decode(token["id_token"], keys, algorithms=["RS256"])
claims = CodeIDToken(
    id_token.claims,
    id_token.header,
    options={
        "iss": {"essential": True, "value": issuer},
        "aud": {"essential": True, "value": client_id},
        "nonce": {"essential": True, "value": nonce},
    },
    params={"client_id": client_id, "nonce": nonce, "access_token": token["access_token"]},
)
claims.validate(leeway=5)
report["id_token"] = True

info = session.get(metadata["userinfo_endpoint"])
info.raise_for_status()
report["userinfo"] = info.json()["sub"] == claims["sub"]
report["email"] = info.json()["email"]

fresh = session.refresh_token(endpoint, refresh_token=token["refresh_token"])
report["refresh"] = fresh["refresh_token"] != token["refresh_token"]

revoked = session.revoke_token(
    metadata["revocation_endpoint"], token=fresh["refresh_token"], token_type_hint="refresh_token"
)
after = session.get(metadata["userinfo_endpoint"])
report["revocation"] = revoked.status_code == 200 and after.status_code == 401
print(json.dumps(report))
