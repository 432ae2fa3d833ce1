//! Durations and sizes as operators write them.
