//! Three nodes on real servers.
mod support;
