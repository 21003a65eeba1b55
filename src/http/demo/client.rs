//! The demo's side of OpenID Connect: what any application does with the `openidconnect` crate, over HTTP.

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreClaimName, CoreClaimType, CoreClient, CoreClientAuthMethod, CoreGrantType,
    CoreIdToken, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm,
    CoreRequestTokenError, CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType, CoreTokenResponse,
    CoreUserInfoClaims,
};
use openidconnect::http::{Request, StatusCode, header};
use openidconnect::url::{ParseError, Url, form_urlencoded};
use openidconnect::{
    AccessToken, AdditionalProviderMetadata, AuthenticationFlow, AuthorizationCode, AuthorizationRequest,
    ClaimsVerificationError, ClientId, ClientSecret, ConfigurationError, CsrfToken, DiscoveryError, EndSessionUrl,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IssuerUrl, LogoutRequest, Nonce,
    NonceVerifier, OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, PostLogoutRedirectUrl,
    ProviderMetadata, RedirectUrl, RefreshToken, RequestTokenError, RevocationUrl, Scope, SubjectIdentifier,
    TokenResponse as _, UserInfoError,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::crypto::CryptoError;
use crate::outbound::{Outbound, OutboundError};

const SCOPES: [&str; 3] = ["profile", "email", "offline_access"];

/// What the person reads when something did not work.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("The provider could not be reached.")]
    Unreachable(#[source] OutboundError),
    #[error("The provider said no: {0}")]
    Refused(String),
    #[error("You turned the sign-in down, so the app was told nothing.")]
    Denied,
    #[error("The provider's answer could not be understood: {0}.")]
    Unreadable(String),
    #[error("The provider sent an ID token that is not right, so the app does not believe it.")]
    IdToken(#[from] ClaimsVerificationError),
    #[error("The provider's answer is about another person, so the app does not use it.")]
    OtherSubject,
    #[error("The provider gives no {0}.")]
    Missing(&'static str),
    #[error(
        "This answer belongs to no sign-in that was started in this browser, or it was used already, or the server was \
         restarted since."
    )]
    Unasked,
    #[error("This answer comes from another provider than the one that was asked. Start again.")]
    OtherIssuer,
    #[error("An address is not right.")]
    Address(#[from] ParseError),
    #[error("A request could not be written.")]
    Request(#[from] openidconnect::http::Error),
    #[error("The app cannot do this with the provider.")]
    Configuration(#[from] ConfigurationError),
    #[error("The app could not begin a session.")]
    Session(#[from] CryptoError),
}

/// The endpoints that are not OpenID Connect Discovery's own: RFC 8414 section 2, RP-Initiated Logout section 2.1.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct MoreEndpoints {
    revocation_endpoint: Option<RevocationUrl>,
    end_session_endpoint: Option<EndSessionUrl>,
}

impl AdditionalProviderMetadata for MoreEndpoints {}

type Metadata = ProviderMetadata<
    MoreEndpoints,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;
type DiscoveredClient =
    CoreClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;

/// A sign-in under way: what its answer must match.
pub struct SignIn {
    pub state: CsrfToken,
    pub nonce: Nonce,
    pub verifier: PkceCodeVerifier,
}

/// What a sign-in brought.
#[derive(Clone)]
pub struct Tokens {
    pub access_token: AccessToken,
    pub refresh_token: Option<RefreshToken>,
    pub id_token: CoreIdToken,
    pub subject: SubjectIdentifier,
}

/// An application registered with one provider.
pub struct RelyingParty {
    pub issuer: String,
    pub client_id: String,
    client_secret: SecretString,
    outbound: Outbound,
}

impl RelyingParty {
    pub const fn new(issuer: String, client_id: String, client_secret: SecretString, outbound: Outbound) -> Self {
        Self { issuer, client_id, client_secret, outbound }
    }

    /// Asked anew each time, so that a rotated key or a changed provider is never missed.
    async fn discover(&self) -> Result<Metadata, ClientError> {
        let http = |request| send(&self.outbound, request);
        Metadata::discover_async(IssuerUrl::new(self.issuer.clone())?, &http).await.map_err(|error| match error {
            DiscoveryError::Request(error) => ClientError::Unreachable(error),
            DiscoveryError::Response(status, body, _) => refusal(status, &body),
            DiscoveryError::Parse(error) => ClientError::Unreadable(place(error.path())),
            other => ClientError::Unreadable(other.to_string()),
        })
    }

    async fn client(&self) -> Result<DiscoveredClient, ClientError> {
        let redirect_uri = RedirectUrl::new(format!("{}/demo/callback", self.issuer))?;
        let secret = ClientSecret::new(self.client_secret.expose_secret().to_owned());
        let id = ClientId::new(self.client_id.clone());
        Ok(CoreClient::from_provider_metadata(self.discover().await?, id, Some(secret)).set_redirect_uri(redirect_uri))
    }

    /// Where to send the browser to sign in, with what it must do there even when the person is signed in already.
    pub async fn begin(&self, prompt: Option<CoreAuthPrompt>) -> Result<(Url, SignIn), ClientError> {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let client = self.client().await?;
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        let request = client.authorize_url(flow, CsrfToken::new_random, Nonce::new_random);
        let scopes = SCOPES.map(|scope| Scope::new(scope.to_owned()));
        let request = request.add_scopes(scopes).set_pkce_challenge(challenge);
        let (address, state, nonce) = prompt.into_iter().fold(request, AuthorizationRequest::add_prompt).url();
        Ok((address, SignIn { state, nonce, verifier }))
    }

    /// The tokens for a code.
    pub async fn exchange(&self, started: SignIn, code: AuthorizationCode) -> Result<Tokens, ClientError> {
        let client = self.client().await?;
        let http = |request| send(&self.outbound, request);
        let request = client.exchange_code(code)?.set_pkce_verifier(started.verifier);
        let answer = request.request_async(&http).await.map_err(token_error)?;
        let (id_token, subject) =
            verified(&client, &answer, &started.nonce)?.ok_or(ClientError::Missing("ID token"))?;
        let refresh_token = answer.refresh_token().cloned();
        Ok(Tokens { access_token: answer.access_token().clone(), refresh_token, id_token, subject })
    }

    /// Fresh tokens for those held.
    pub async fn refresh(&self, held: Tokens) -> Result<Tokens, ClientError> {
        let spent = held.refresh_token.as_ref().ok_or(ClientError::Missing("refresh token"))?;
        let client = self.client().await?;
        let http = |request| send(&self.outbound, request);
        let answer = client.exchange_refresh_token(spent)?.request_async(&http).await.map_err(token_error)?;
        // OpenID Connect Core section 12.2: no nonce is demanded here, but the person must be the same.
        let fresh = verified(&client, &answer, |_: Option<&Nonce>| Ok(()))?;
        if fresh.as_ref().is_some_and(|(_, subject)| *subject != held.subject) {
            return Err(ClientError::OtherSubject);
        }
        Ok(Tokens {
            access_token: answer.access_token().clone(),
            refresh_token: answer.refresh_token().cloned().or(held.refresh_token),
            id_token: fresh.map_or(held.id_token, |(id_token, _)| id_token),
            subject: held.subject,
        })
    }

    /// What the provider says about the person now.
    pub async fn userinfo(&self, held: &Tokens) -> Result<CoreUserInfoClaims, ClientError> {
        let client = self.client().await?;
        let http = |request| send(&self.outbound, request);
        let request = client.user_info(held.access_token.clone(), Some(held.subject.clone()))?;
        request.request_async(&http).await.map_err(|error| match error {
            UserInfoError::Request(error) => ClientError::Unreachable(error),
            UserInfoError::Response(status, body, _) => refusal(status, &body),
            UserInfoError::Parse(error) => ClientError::Unreadable(place(error.path())),
            UserInfoError::ClaimsVerification(_) => ClientError::OtherSubject,
            other => ClientError::Unreadable(other.to_string()),
        })
    }

    /// Gives a token back, RFC 7009. By hand: the crate refuses to do it over http, even to this machine.
    pub async fn revoke(&self, token: &str) -> Result<(), ClientError> {
        let metadata = self.discover().await?;
        let endpoint = metadata.additional_metadata().revocation_endpoint.as_ref();
        let endpoint = endpoint.ok_or(ClientError::Missing("revocation endpoint"))?;
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("token", token).finish();
        let request = Request::post(endpoint.as_str())
            .header(header::AUTHORIZATION, self.basic())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.into_bytes())?;
        let response = send(&self.outbound, request).await.map_err(ClientError::Unreachable)?;
        if response.status() == StatusCode::OK { Ok(()) } else { Err(refusal(response.status(), response.body())) }
    }

    /// RFC 6749 section 2.3.1: each half is form-encoded first.
    fn basic(&self) -> String {
        use base64::Engine as _;
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encode(&self.client_id), encode(self.client_secret.expose_secret()));
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }

    /// Where to send the browser to sign out, and the state that comes back from there.
    pub async fn end_session(&self, held: &Tokens) -> Result<(Url, CsrfToken), ClientError> {
        let metadata = self.discover().await?;
        let endpoint = metadata.additional_metadata().end_session_endpoint.clone();
        let endpoint = endpoint.ok_or(ClientError::Missing("way to sign out"))?;
        let state = CsrfToken::new_random();
        let request = LogoutRequest::from(endpoint)
            .set_id_token_hint(&held.id_token)
            .set_client_id(ClientId::new(self.client_id.clone()))
            .set_post_logout_redirect_uri(PostLogoutRedirectUrl::new(format!("{}/demo/signed-out", self.issuer))?)
            .set_state(state.clone());
        Ok((request.http_get_url(), state))
    }
}

/// The ID token of an answer, once it has proven right.
fn verified(
    client: &DiscoveredClient,
    answer: &CoreTokenResponse,
    nonce: impl NonceVerifier,
) -> Result<Option<(CoreIdToken, SubjectIdentifier)>, ClientError> {
    let Some(id_token) = answer.id_token() else { return Ok(None) };
    let claims = id_token.claims(&client.id_token_verifier(), nonce)?;
    Ok(Some((id_token.clone(), claims.subject().clone())))
}

/// What the crate asks of an HTTP client.
async fn send(outbound: &Outbound, request: HttpRequest) -> Result<HttpResponse, OutboundError> {
    let request = reqwest::Request::try_from(request).map_err(OutboundError::Request)?;
    let (status, headers, body) = outbound.send(request).await?;
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn token_error(error: CoreRequestTokenError<OutboundError>) -> ClientError {
    match error {
        RequestTokenError::ServerResponse(answer) => {
            refused(answer.error().as_ref(), answer.error_description().map(String::as_str))
        }
        RequestTokenError::Request(error) => ClientError::Unreachable(error),
        RequestTokenError::Parse(error, _) => ClientError::Unreadable(place(error.path())),
        RequestTokenError::Other(what) => ClientError::Unreadable(what),
    }
}

/// An error as the RFCs write it, in a sentence.
pub fn refused(code: &str, description: Option<&str>) -> ClientError {
    ClientError::Refused(match description {
        Some(description) => format!("{description} ({code})"),
        None => format!("{code}."),
    })
}

fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let member = |name| body.get(name).and_then(Value::as_str);
    match member("error") {
        Some(code) => refused(code, member("error_description")),
        None => ClientError::Refused(format!("status {}.", status.as_u16())),
    }
}

/// Where in an answer the trouble is; the answer itself may hold tokens.
fn place(path: &impl std::fmt::Display) -> String {
    format!("look at \"{path}\"")
}
