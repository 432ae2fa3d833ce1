//! The way out: who may connect to what, decided before anything is dialled.
//!
//! What serves a client of the forward proxy asks, in this order:
//!
//! ```text
//! bytes of the target --Destination::parse--> Destination
//! Client + Destination --Policy::login--> whether a user name would change anything
//! Proxy-Authorization --Basic::parse--> Basic --Users::known, or off the worker Users::verify--> user
//! Client + Destination --Policy::decide--> Verdict: Allowed(Grant) | Denied(Denial)
//! Name --the resolver--> addresses --Guard::check, each--> CheckedAddr --net::dial-->
//! bytes of the tunnel --HelloReader::feed--> Hello --sni::judge--> on, on and logged, or closed
//! Denial --Denial::text, Denial::json--> the body of the 403
//! Grant::reported --Seen::note--> what `app-gateway egress suggest` prints
//! ```
//!
//! Two more things whoever serves has to keep:
//!
//! - [`EgressPolicy::decide`] comes before the look-up: what is denied is never looked up. Every answer of
//!   a look-up goes through [`Guard::check`]; one bad answer does not condemn the good ones, and
//!   only what the guard returns can be dialled.
//! - Through a parent proxy it is the parent that looks names up. The guard still holds for
//!   addresses written as such ([`Guard::check`] before the parent is asked), and for names that
//!   resolve here: a name whose every address is barred is not passed on; one that does not resolve
//!   here is.
//!
//! All of it is immutable once compiled and shared by the workers, but for [`Observations`] and the cache
//! in [`Users`], which lock for a few instructions once per tunnel.
//!
//! Never: dials, resolves, reads a file, keeps a connection.

pub mod basic;
mod denial;
pub mod guard;
mod index;
pub mod observed;
pub mod password;
pub mod policy;
pub mod sni;

pub use crate::addr::{Destination, DestinationError, Host};
pub use basic::BasicCredentials;
pub use denial::Denial;
pub use guard::{Blocked, Guard, OwnAddress};
pub use observed::{Observation, Observations};
pub use password::Users;
pub use policy::{EgressClient, EgressPolicy, EgressRule, Grant, Login, Verdict};

#[cfg(test)]
mod tests;
