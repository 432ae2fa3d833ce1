//! Slow second implementations, written from the specifications without regard to speed or to the
//! code of the gateway. Targets compare both.

pub(crate) mod chunked;
pub(crate) mod rules;
pub(crate) mod syntax;
