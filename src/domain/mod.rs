//! What the server knows: clients, people, sessions, grants, keys. Plain records and pure rules; no input or output.

pub mod activity;
pub mod client;
pub mod flow;
pub mod grant;
pub mod ids;
pub mod key;
pub mod link;
pub mod password;
pub mod resource;
pub mod second_factor;
pub mod session;
pub mod throttle;
pub mod user;
pub mod zone;
