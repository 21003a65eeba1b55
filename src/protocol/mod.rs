//! The RFCs' words: parse, check, serialize. No input or output, no clock, no framework, no database.

pub mod access_token;
pub mod acr;
pub mod authorization;
pub mod claims;
pub mod client_auth;
pub mod discovery;
pub mod error;
pub mod jose;
pub mod logout;
pub mod logout_token;
pub mod metadata;
pub mod params;
pub mod pkce;
pub mod redirect_uri;
pub mod response_mode;
pub mod scope;
pub mod text;
pub mod token;
