//! The `openidconnect` crate as a relying party: an application that nobody here wrote.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use openidconnect::core::{CoreClient, CoreProviderMetadata, CoreResponseType, CoreUserInfoClaims};
use openidconnect::{
    AccessTokenHash, AuthenticationFlow, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest,
    HttpResponse, IssuerUrl, Nonce, OAuth2TokenResponse, PkceCodeChallenge, RedirectUrl, RevocationUrl, Scope,
    TokenResponse, http,
};
use support::{App, HTTP, World, world};

/// What the crate asks of an HTTP client, by ours.
fn call(request: HttpRequest) -> Result<HttpResponse, reqwest::Error> {
    let (head, body) = request.into_parts();
    // The crate revokes over https only; this server is plain http on the loopback.
    let address = head.uri.to_string().replace("https://127.0.0.1", "http://127.0.0.1");
    let response = HTTP.request(head.method, address).headers(head.headers).body(body).send()?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut answer = http::Response::new(response.bytes()?.to_vec());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

fn the_whole_way(w: &World, app: &App) {
    let issuer = IssuerUrl::new(w.server.issuer.clone()).unwrap();
    let metadata = CoreProviderMetadata::discover(&issuer, &call).unwrap();
    let revocation = RevocationUrl::new(app.url("/revoke").replace("http://", "https://")).unwrap();
    let client = CoreClient::from_provider_metadata(
        metadata,
        ClientId::new(app.id.clone()),
        app.secret.clone().map(ClientSecret::new),
    )
    .set_redirect_uri(RedirectUrl::new(app.redirect_uri.clone()).unwrap())
    .set_revocation_url(revocation);

    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (url, state, nonce) = client
        .authorize_url(
            AuthenticationFlow::<CoreResponseType>::AuthorizationCode,
            CsrfToken::new_random,
            Nonce::new_random,
        )
        .add_scopes(["email", "profile", "offline_access"].map(|scope| Scope::new(scope.to_owned())))
        .set_pkce_challenge(challenge)
        .url();
    let callback = w.browser().through(url).callback();
    assert_eq!((&callback["state"], &callback["iss"]), (state.secret(), &w.server.issuer));

    let code = AuthorizationCode::new(callback["code"].clone());
    let tokens = client.exchange_code(code).unwrap().set_pkce_verifier(verifier).request(&call).unwrap();
    let id_verifier = client.id_token_verifier();
    let id_token = tokens.id_token().unwrap();
    let claims = id_token.claims(&id_verifier, &nonce).unwrap();
    let algorithm = id_token.signing_alg().unwrap();
    let hash =
        AccessTokenHash::from_token(tokens.access_token(), algorithm, id_token.signing_key(&id_verifier).unwrap());
    assert_eq!(claims.access_token_hash(), Some(&hash.unwrap()));

    let info: CoreUserInfoClaims = client
        .user_info(tokens.access_token().clone(), Some(claims.subject().clone()))
        .unwrap()
        .request(&call)
        .unwrap();
    assert_eq!(info.email().unwrap().as_str(), "ada@example.com");
    assert_eq!(info.preferred_username().unwrap().as_str(), "ada");

    let fresh = client.exchange_refresh_token(tokens.refresh_token().unwrap()).unwrap().request(&call).unwrap();
    let again = fresh.id_token().unwrap().claims(&id_verifier, |_: Option<&Nonce>| Ok(())).unwrap();
    assert_eq!(again.subject(), claims.subject());

    let refresh_token = fresh.refresh_token().unwrap();
    client.revoke_token(refresh_token.clone().into()).unwrap().request(&call).unwrap();
    assert!(client.exchange_refresh_token(refresh_token).unwrap().request(&call).is_err());
    let info: Result<CoreUserInfoClaims, _> =
        client.user_info(fresh.access_token().clone(), None).unwrap().request(&call);
    assert!(info.is_err(), "{info:?}");
}

#[test]
fn a_confidential_client_goes_the_whole_way() {
    let w = world();
    the_whole_way(&w, &w.web);
}

#[test]
fn a_public_client_goes_the_whole_way() {
    let w = world();
    the_whole_way(&w, &w.spa);
}
