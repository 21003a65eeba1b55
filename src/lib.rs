//! Countersign, an OAuth 2 / OpenID Connect identity provider.
//!
//! Imports go one way: `protocol <- domain <- {crypto, store} <- flow <- {http, delivery} <- app <- main`; `clock` and
//! `config` may be used by all but `protocol`. docs/architecture.md has the map and the walk of each flow.

pub mod app;
pub mod clock;
pub mod config;
pub mod crypto;
mod delivery;
mod development;
pub mod domain;
pub mod flow;
mod http;
mod logging;
pub mod metrics;
pub mod outbound;
pub mod protocol;
pub mod store;
mod tls;
mod traces;
