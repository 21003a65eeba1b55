//! Provider metadata: OpenID Connect Discovery section 3, RFC 8414 section 2, RFC 9207 section 3. Lists what is there
//! and nothing else.

use serde_json::{Value, json};

use super::claims::SCOPE_CLAIMS;
use super::jose::SigningAlgorithm;

/// What a client proves itself with (RFC 7523); the algorithms of `private_key_jwt`.
pub const ASSERTION_ALGORITHMS: [SigningAlgorithm; 4] = SigningAlgorithm::ALL;

/// The metadata document, the same at both well-known addresses. `acr_values` are the classes that a sign-in here can reach,
/// weakest first.
#[must_use]
pub fn metadata<'a>(issuer: &str, resource_scopes: impl Iterator<Item = &'a str>, acr_values: &[&str]) -> Value {
    let at = |path: &str| format!("{issuer}{path}");
    let algorithms = SigningAlgorithm::ALL.map(SigningAlgorithm::as_str);
    let assertion_algorithms = ASSERTION_ALGORITHMS.map(SigningAlgorithm::as_str);
    let mut scopes: Vec<&str> = ["openid", "profile", "email", "address", "phone", "offline_access"].to_vec();
    let mut own: Vec<&str> = resource_scopes.filter(|scope| !scopes.contains(scope)).collect();
    own.sort_unstable();
    own.dedup();
    scopes.extend(own);
    let mut claims: Vec<&str> =
        ["sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "sid", "at_hash"].to_vec();
    claims.extend(SCOPE_CLAIMS.iter().flat_map(|(_, claims)| claims.iter()));
    let authentication = ["client_secret_basic", "client_secret_post", "private_key_jwt"];
    let with_public = ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"];
    json!({
        "issuer": issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "userinfo_endpoint": at("/userinfo"),
        "revocation_endpoint": at("/revoke"),
        "introspection_endpoint": at("/introspect"),
        "end_session_endpoint": at("/logout"),
        "frontchannel_logout_supported": true,
        "frontchannel_logout_session_supported": true,
        "backchannel_logout_supported": true,
        "backchannel_logout_session_supported": true,
        "jwks_uri": at("/jwks"),
        "scopes_supported": scopes,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "code_challenge_methods_supported": ["S256"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
        "userinfo_signing_alg_values_supported": algorithms,
        "token_endpoint_auth_methods_supported": with_public,
        "token_endpoint_auth_signing_alg_values_supported": assertion_algorithms,
        "revocation_endpoint_auth_methods_supported": with_public,
        "revocation_endpoint_auth_signing_alg_values_supported": assertion_algorithms,
        "introspection_endpoint_auth_methods_supported": authentication,
        "introspection_endpoint_auth_signing_alg_values_supported": assertion_algorithms,
        "acr_values_supported": acr_values,
        "claim_types_supported": ["normal"],
        "claims_supported": claims,
        "claims_parameter_supported": true,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "require_request_uri_registration": false,
        "authorization_response_iss_parameter_supported": true,
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "ui_locales_supported": ["en"],
        "display_values_supported": ["page"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_the_specifications_require_is_listed() {
        let document = metadata("https://idp.example", ["orders:read"].into_iter(), &[]);
        for required in [
            "issuer",
            "authorization_endpoint",
            "token_endpoint",
            "jwks_uri",
            "response_types_supported",
            "subject_types_supported",
            "id_token_signing_alg_values_supported",
        ] {
            assert!(document.get(required).is_some(), "{required}");
        }
        let algorithms = document["id_token_signing_alg_values_supported"].as_array().unwrap();
        assert!(algorithms.iter().any(|a| a == "RS256") && algorithms.iter().all(|a| a != "none"));
        assert!(document["scopes_supported"].as_array().unwrap().iter().any(|s| s == "orders:read"));
    }
}
