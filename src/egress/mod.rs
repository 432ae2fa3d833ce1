//! Egress policy: decides which clients may connect to which destinations, before any connection.
//!
//! The forward proxy takes these steps, in this order:
//!
//! ```text
//! bytes of the target --Destination::parse--> Destination
//! EgressClient + Destination --EgressPolicy::login--> whether a login can change the decision
//! Proxy-Authorization --BasicCredentials::parse--> BasicCredentials
//!     --Users::known, or off the worker Users::verify--> user
//! EgressClient + Destination --EgressPolicy::decide--> allowed (with its rule) | denied (Denial)
//! Name --the resolver--> addresses --Guard::check, each--> CheckedAddr --net::dial-->
//! bytes of the tunnel --HelloReader::feed--> HelloProgress --sni::judge--> on, logged, or closed
//! Denial --Denial::text, Denial::json--> the body of the 403
//! Grant::reported --Observations::note--> output of `app-gateway egress suggest`
//! ```
//!
//! Two more rules for the caller:
//!
//! - [`EgressPolicy::decide`] comes before the look-up: a denied name is never looked up. Every
//!   address of an answer goes through [`Guard::check`]; one barred address does not condemn the
//!   others, and only an address that the guard returns can be dialled.
//! - A parent proxy looks names up itself. The guard still applies to literal addresses
//!   ([`Guard::check`] before the request to the parent), and to names that resolve here: a name
//!   with only barred addresses is rejected; a name that does not resolve here is sent to the
//!   parent.
//!
//! All of it is immutable once compiled and shared by the workers, except [`Observations`] and the
//! cache in [`Users`], which hold a lock for a few instructions once per tunnel.
//!
//! This module never dials, resolves, reads a file or keeps a connection.

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
